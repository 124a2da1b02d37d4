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
from tlx.plan.estimate import estimate
from tlx.plan.measure import measured, too_large
from tlx.plan.result import Plan
from tlx.plan.target import Target, parse_target
from tlx.run import RunConfig, resolve

METHODS = ("auto", "analytic", "compile")

__all__ = ["METHODS", "Plan", "Target", "parse_target", "plan"]


def plan(
    config: RunConfig | ConfigDict | Mapping[str, Any],
    target: str | Target,
    method: str = "auto",
    *,
    compiler_python: str | None = None,
    price: float | None = None,
    allow: Sequence[str] = (),
) -> Plan:
    """Memory, FLOPs, traffic and step time of a run on a machine that is not here.

    method: "compile" asks the target's compiler, in a process of `compiler_python` (default: see
    plan/compilers.py), and is an error where there is none; "analytic" takes a second; "auto" compiles where
    it can, and else the plan says that it is analytic and what to install. price: of a chip for an hour.
    """
    if method not in METHODS:
        raise ConfigError(one_of("--method", method, METHODS))
    config = config if isinstance(config, RunConfig) else resolve(config, tuple(allow))
    target = target if isinstance(target, Target) else parse_target(target)
    analytic = estimate(config, target, price)
    if method == "analytic":
        return analytic
    python = compilers.compiler_python(target, compiler_python)
    if python is None:
        if method == "compile":
            raise ConfigError(compilers.how_to_install(target))
        return dataclasses.replace(analytic, notes=(*analytic.notes, compilers.how_to_install(target)))
    facts = compilers.compile_for_target(config, target, python, allow)
    if isinstance(facts, compilers.TooLarge):
        return too_large(analytic, facts, target)
    return measured(analytic, facts, config, target)
