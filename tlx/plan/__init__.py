"""Floor 8: what a run would need and how fast it would be on hardware that is not here.

import tlx.plan
tlx.plan.plan(config, "tpu:v5e:16x16").to_json()
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tlx.base.errors import ConfigError, one_of
from tlx.plan import compilers
from tlx.plan.changes import ConfigOverride, shortest
from tlx.plan.estimate import estimate
from tlx.plan.measure import measured, too_large
from tlx.plan.result import Plan
from tlx.plan.search import SearchResult, pareto_front, search
from tlx.plan.target import Target, parse_target
from tlx.run import RunConfig
from tlx.run.checks import resolve

METHODS = ("auto", "analytic", "compile")

__all__ = [
    "METHODS",
    "ConfigOverride",
    "SearchResult",
    "Plan",
    "Target",
    "pareto_front",
    "layouts",
    "parse_target",
    "plan",
]


def plan(
    config: RunConfig | ConfigDict | Mapping[str, Any],
    target: str | Target,
    method: str = "auto",
    *,
    compiler_python: str | None = None,
    price: float | None = None,
    suggest: bool = True,
    allow: Sequence[str] = (),
) -> Plan:
    """Memory, FLOPs, traffic and step time of a run on a machine that is not here.

    method: "compile" asks the target's compiler, in a process of `compiler_python` (default: see
    plan/compilers.py), and is an error where there is none; "analytic" takes a second; "auto" compiles where
    it can, and else the plan says that it is analytic and what to install. price: of a chip for an hour.
    suggest: where it does not fit, look for the shortest list of changes that makes it fit.
    """
    if method not in METHODS:
        raise ConfigError(one_of("--method", method, METHODS))
    config = config if isinstance(config, RunConfig) else resolve(config, tuple(allow))
    target = target if isinstance(target, Target) else parse_target(target)
    _check_slices(config, target)
    analytic, compiler = estimate(config, target, price), None
    if method != "analytic":
        compiler = compilers.compiler_python(target, compiler_python)
    if compiler is None and method == "compile":
        raise ConfigError(compilers.how_to_install(target))
    if compiler is None:
        hint = (compilers.how_to_install(target),) if method == "auto" else ()
        found = dataclasses.replace(analytic, notes=(*analytic.notes, *hint))
    else:
        found = _compiled(config, target, compiler, price, allow)
    if found.fits or not suggest:
        return found
    check = None if compiler is None else lambda one: _compiled(one, target, compiler, price, allow)
    return dataclasses.replace(found, changes=shortest(config, target, check))


def layouts(
    config: RunConfig | ConfigDict | Mapping[str, Any],
    target: str | Target,
    method: str = "auto",
    *,
    compiler_python: str | None = None,
    allow: Sequence[str] = (),
) -> list[SearchResult]:
    """Mesh, microbatches and remat that fit, the fastest first; a handful of them compiled, as in `plan`."""
    config = config if isinstance(config, RunConfig) else resolve(config, tuple(allow))
    target = target if isinstance(target, Target) else parse_target(target)
    _check_slices(config, target)
    compiler = None if method == "analytic" else compilers.compiler_python(target, compiler_python)
    if compiler is None and method == "compile":
        raise ConfigError(compilers.how_to_install(target))
    check = None if compiler is None else lambda one: _compiled(one, target, compiler, None, allow)
    return search(config, target, check)


def _check_slices(config: RunConfig, target: Target) -> None:
    """ConfigError where `tlx train` would refuse the target's devices."""
    if target.slices > 1 and config.mesh.num_slices != target.slices:
        raise ConfigError(
            f"mesh.num_slices = {config.mesh.num_slices}, but --target={target.text!r} has {target.slices} "
            f"slices: set it to {target.slices}"
        )


def _compiled(
    config: RunConfig, target: Target, python: str, price: float | None, allow: Sequence[str]
) -> Plan:
    analytic = estimate(config, target, price)
    facts = compilers.compile_for_target(config, target, python, allow)
    if isinstance(facts, compilers.TooLarge):
        return too_large(analytic, facts, target)
    return measured(analytic, facts, config, target)
