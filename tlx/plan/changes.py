"""Changes to a config that trade speed for memory, and the shortest list of them that makes it fit."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.plan.estimate import estimate
from tlx.plan.footprint import RunConfig
from tlx.plan.result import Plan
from tlx.plan.target import Target
from tlx.run.checks import resolve

# Rematerialisation, from most to least kept: results of all products, those that attention reads, nothing.
REMAT = (
    "none",
    "query+key+value+attention+attended+in+gate",
    "query+key+value+attention",
    "full",
)
# Number of lists that fit by the estimate and are shown to the compiler, if there is one.
_TRIES = 3


class ConfigOverride(NamedTuple):
    """Overrides that go together."""

    words: tuple[str, ...]
    """As `tlx train` takes them."""
    values: dict[str, Any]
    """{dotted path: value}."""


def apply(config: RunConfig, *changes: ConfigOverride) -> RunConfig:
    """Return the config with the changes; ConfigError where that is no legal config."""
    values = copy.deepcopy(to_dict(config))
    for override in changes:
        for path, value in override.values.items():
            *groups, key = path.split(".")
            group = values
            for name in groups:
                group = group[name]
            group[key] = value
    return resolve(values, allow=None)


def change(**values: Any) -> ConfigOverride:
    """Return a change of fields, written with two underscores: train__microbatches=4."""
    paths = {name.replace("__", "."): value for name, value in values.items()}
    return ConfigOverride(tuple(f"--config.{path}={_word(value)}" for path, value in paths.items()), paths)


def candidates(config: RunConfig, target: Target) -> list[list[ConfigOverride]]:
    """Return groups of changes, of each of which at most one is made; the gentlest first within a group."""
    execution = config.model.execution
    configured = REMAT.index(execution.remat) if execution.remat in REMAT else 0
    remat = [change(model__execution__remat=name) for name in REMAT[configured + 1 :]]
    mesh = config.mesh.sizes(target.num_devices)
    rows = config.train.batch_size // math.prod(mesh[axis] for axis in ("data", "fsdp", "expert"))
    counts = [config.train.microbatches * times for times in (2, 4, 8, 16)]
    microbatches = [change(train__microbatches=n) for n in counts if n <= rows and rows % n == 0]
    groups = [remat, microbatches]
    if mesh["data"] > 1:
        all_fsdp = change(mesh__data=1, mesh__fsdp=mesh["data"] * mesh["fsdp"], mesh__rules="fsdp_tp_cp")
        groups.append([all_fsdp])
    if config.optimizer.momentum_dtype == "float32":
        groups.append([change(optimizer__momentum_dtype="bfloat16")])
    chunks = [n for n in (128,) if 0 < n < (config.loss.chunk or config.data.sequence_length)]
    groups.append([change(loss__chunk=n) for n in chunks])
    tensor = [n for n in (2, 4, 8) if n > mesh["tensor"] and mesh["fsdp"] % n == 0]
    groups.append([_more_tensor(mesh, n) for n in tensor])
    return [group for group in groups if group]


def shortest(
    config: RunConfig, target: Target, check: Callable[[RunConfig], Plan] | None = None
) -> tuple[str, ...]:
    """Return the overrides of the shortest list of changes after which the config fits.

    Args:
        config: Checked config, which does not fit.
        target: Hardware that is planned for.
        check: Plans a config by a compiler, which then decides; None takes the estimate.

    Returns:
        Words for `tlx train`, of lists of equal length those of the fastest by the estimate; () where none
        fits.
    """
    groups = candidates(config, target)
    # A tensor axis, the last group, leaves more rows to a device: with it or without it is smallest.
    smallest = [_try(config, target, tuple(group[-1] for group in some)) for some in (groups, groups[:-1])]
    if all(plan is not None and not plan.fits for plan in smallest):
        return ()
    for length in range(1, len(groups) + 1):
        fitting = []
        for changes in _lists(groups, length):
            plan = _try(config, target, changes)
            if plan is not None and plan.fits:
                fitting.append((plan.step_ms, plan.memory["total"], changes))
        for _, _, changes in sorted(fitting, key=lambda row: row[:2])[:_TRIES]:
            if _works(apply(config, *changes), target, check):
                return tuple(word for override in changes for word in override.words)
    return ()


def _works(config: RunConfig, target: Target, check: Callable[[RunConfig], Plan] | None) -> bool:
    """Whether a config fits, by the compiler or the estimate with every activation traced."""
    try:
        return (estimate(config, target) if check is None else check(config)).fits
    except ConfigError:
        return False


def _try(config: RunConfig, target: Target, changes: tuple[ConfigOverride, ...]) -> Plan | None:
    """Return the estimate after some changes; None where they do not go together."""
    try:
        return estimate(apply(config, *changes), target, traced=False)
    except ConfigError:
        return None


def _lists(groups: list[list[ConfigOverride]], length: int) -> Iterator[tuple[ConfigOverride, ...]]:
    """Yield every choice from so many groups; of three and more groups only the last change of each."""
    for chosen in itertools.combinations(groups, length):
        if length > 2:
            yield tuple(group[-1] for group in chosen)
        else:
            yield from itertools.product(*chosen)


def _more_tensor(mesh: dict[str, int], size: int) -> ConfigOverride:
    """Return the change that makes the tensor axis larger and fsdp smaller."""
    return change(
        mesh__tensor=size,
        mesh__fsdp=mesh["fsdp"] * mesh["tensor"] // size,
        mesh__data=mesh["data"],
        mesh__rules="fsdp_tp_cp",
    )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
