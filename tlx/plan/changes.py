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

# From what keeps most to what keeps least: the results of all products, those that attention reads, nothing.
REMAT = (
    "none",
    "query+key+value+attention+attended+in+gate",
    "query+key+value+attention",
    "full",
)
# How many lists that fit by the estimate are shown to the compiler, if there is one.
_TRIES = 3


class ConfigOverride(NamedTuple):
    """Overrides that go together, as `tlx train` takes them."""

    words: tuple[str, ...]
    values: dict[str, Any]  # dotted path to value


def apply(config: RunConfig, *changes: ConfigOverride) -> RunConfig:
    """The config with the changes; ConfigError where it cannot be so."""
    values = copy.deepcopy(to_dict(config))
    for path, value in ((path, value) for change in changes for path, value in change.values.items()):
        *groups, last = path.split(".")
        node = values
        for group in groups:
            node = node[group]
        node[last] = value
    return resolve(values)


def change(**values: Any) -> ConfigOverride:
    """A change of fields, written with two underscores: train__microbatches=4."""
    paths = {name.replace("__", "."): value for name, value in values.items()}
    return ConfigOverride(tuple(f"--config.{path}={_word(value)}" for path, value in paths.items()), paths)


def candidates(config: RunConfig, target: Target) -> list[list[ConfigOverride]]:
    """Groups of changes, one of each to be taken at most; the gentlest first within a group."""
    keep = REMAT.index(config.model.execution.remat) if config.model.execution.remat in REMAT else 0
    remat = [change(model__execution__remat=name) for name in REMAT[keep + 1 :]]
    mesh = config.mesh.sizes(target.num_devices)
    rows = config.train.batch_size // math.prod(mesh[axis] for axis in ("data", "fsdp", "expert"))
    parts = [
        change(train__microbatches=n)
        for n in (config.train.microbatches * times for times in (2, 4, 8, 16))
        if n <= rows and rows % n == 0
    ]
    groups = [remat, parts]
    if mesh["data"] > 1:
        groups.append(
            [change(mesh__data=1, mesh__fsdp=mesh["data"] * mesh["fsdp"], mesh__rules="fsdp_tp_cp")]
        )
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
    """The overrides of the shortest list of changes after which the config fits; () where none does.

    Of lists as short the fastest by the estimate. `check` has the last word on each (a compiler).
    """
    groups = candidates(config, target)
    # A tensor axis, the last group, leaves more rows to a device: with it or without it is smallest.
    most = [_try(config, target, tuple(group[-1] for group in kept)) for kept in (groups, groups[:-1])]
    if all(found is not None and not found.fits for found in most):
        return ()
    for length in range(1, 4):
        fitting = []
        for changes in _lists(groups, length):
            found = _try(config, target, changes)
            if found is not None and found.fits:
                fitting.append((found.step_ms, found.memory["total"], changes))
        for _, _, changes in sorted(fitting, key=lambda row: row[:2])[:_TRIES]:
            if _works(apply(config, *changes), target, check):
                return tuple(word for one in changes for word in one.words)
    return ()


def _works(config: RunConfig, target: Target, check: Callable[[RunConfig], Plan] | None) -> bool:
    try:
        return (estimate(config, target) if check is None else check(config)).fits
    except ConfigError:
        return False


def _try(config: RunConfig, target: Target, changes: tuple[ConfigOverride, ...]) -> Plan | None:
    try:
        return estimate(apply(config, *changes), target, traced=False)
    except ConfigError:
        return None


def _lists(groups: list[list[ConfigOverride]], length: int) -> Iterator[tuple[ConfigOverride, ...]]:
    """Every choice of so many groups; of three and more, what saves most in each."""
    for chosen in itertools.combinations(groups, length):
        if length > 2:
            yield tuple(group[-1] for group in chosen)
        else:
            yield from itertools.product(*chosen)


def _more_tensor(mesh: dict[str, int], size: int) -> ConfigOverride:
    return change(
        mesh__tensor=size,
        mesh__fsdp=mesh["fsdp"] * mesh["tensor"] // size,
        mesh__data=mesh["data"],
        mesh__rules="fsdp_tp_cp",
    )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
