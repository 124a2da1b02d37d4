"""Floor 9: memory, FLOPs, traffic and step time of a run on hardware that is not here.

import tlx.plan
tlx.plan.plan(config, "tpu:v5e:16x16").to_json()
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from tlx.run.checks import fit_devices, resolve

METHODS = ("auto", "analytic", "compile")

__all__ = [
    "METHODS",
    "ConfigOverride",
    "Plan",
    "SearchResult",
    "Target",
    "layouts",
    "pareto_front",
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
    """Plan a run on hardware that is not here.

    Args:
        config: Config of the run.
        target: Hardware, such as "tpu:v5e:16x16" (plan/target.py).
        method: "compile" asks the target's compiler in a process of its own, and is an error where there is
            none; "analytic" takes a second; "auto" compiles where it can, and otherwise its plan says what to
            install.
        compiler_python: Python that has the compiler; None for the environment's or this one, see
            plan/compilers.py.
        price: Of a chip for an hour; None leaves out the cost.
        suggest: Whether to look for the shortest list of changes that makes it fit, where it does not.
        allow: Packages outside tlx whose code the config may name.

    Returns:
        The plan.

    Raises:
        ConfigError: For a wrong config, target or method, or no compiler.
        RuntimeError: Where the compiling process broke.
    """
    if method not in METHODS:
        raise ConfigError(one_of("--method", method, METHODS))
    config = _resolved(config, allow)
    target = _parsed_target(config, target)
    config = fit_devices(config, target.num_devices)
    analytic = estimate(config, target, price)
    compiler = None if method == "analytic" else _compiler(target, method, compiler_python)
    if compiler is not None:
        result = _compiled(config, target, compiler, price, allow)
    elif method == "auto":
        notes = (*analytic.notes, compilers.how_to_install(target))
        result = dataclasses.replace(analytic, notes=notes)
    else:
        result = analytic
    if result.fits or not suggest:
        return result
    check = None if compiler is None else _checker(target, compiler, price, allow)
    return dataclasses.replace(result, changes=shortest(config, target, check))


def layouts(
    config: RunConfig | ConfigDict | Mapping[str, Any],
    target: str | Target,
    method: str = "auto",
    *,
    compiler_python: str | None = None,
    allow: Sequence[str] = (),
) -> list[SearchResult]:
    """Search for mesh, microbatches and remat that fit, the fastest first.

    Args:
        config: Config of the run.
        target: Hardware, as in `plan`.
        method: As in `plan`; where there is a compiler only the best few by the estimate are returned.
        compiler_python: As in `plan`.
        allow: As in `plan`.

    Returns:
        Layouts with their plans.

    Raises:
        ConfigError: Where no layout fits, and as `plan`.
    """
    config = _resolved(config, allow)
    target = _parsed_target(config, target)
    compiler = None if method == "analytic" else _compiler(target, method, compiler_python)
    check = None if compiler is None else _checker(target, compiler, None, allow)
    return search(config, target, check)


def _resolved(config: RunConfig | ConfigDict | Mapping[str, Any], allow: Sequence[str]) -> RunConfig:
    return config if isinstance(config, RunConfig) else resolve(config, tuple(allow))


def _parsed_target(config: RunConfig, target: str | Target) -> Target:
    """Return the target; ConfigError where `tlx train` would refuse its devices."""
    parsed = target if isinstance(target, Target) else parse_target(target)
    if parsed.slices > 1 and config.mesh.num_slices != parsed.slices:
        raise ConfigError(
            f"mesh.num_slices = {config.mesh.num_slices}, but --target={parsed.text!r} has {parsed.slices} "
            f"slices: set it to {parsed.slices}"
        )
    return parsed


def _compiler(target: Target, method: str, compiler_python: str | None) -> str | None:
    """Return the Python that compiles for the target; ConfigError where "compile" has none."""
    compiler = compilers.compiler_python(target, compiler_python)
    if compiler is None and method == "compile":
        raise ConfigError(compilers.how_to_install(target))
    return compiler


def _checker(
    target: Target, python: str, price: float | None, allow: Sequence[str]
) -> Callable[[RunConfig], Plan]:
    """Return a function that plans a changed config by the compiler."""
    return lambda config: _compiled(config, target, python, price, allow)


def _compiled(
    config: RunConfig, target: Target, python: str, price: float | None, allow: Sequence[str]
) -> Plan:
    """Plan by the target's compiler."""
    analytic = estimate(config, target, price)
    facts = compilers.compile_for_target(config, target, python, allow)
    if isinstance(facts, compilers.TooLarge):
        return too_large(analytic, facts, target)
    return measured(analytic, facts, config, target)
