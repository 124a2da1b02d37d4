"""The fastest layout that fits: mesh, microbatches and remat, by the estimate and then the compiler."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tlx.base.errors import ConfigError
from tlx.plan.changes import REMAT, ConfigOverride, apply, change
from tlx.plan.estimate import estimate
from tlx.plan.footprint import RunConfig
from tlx.plan.result import Plan
from tlx.plan.target import Target

HANDFUL = 4  # layouts that are compiled


class SearchResult(NamedTuple):
    """A layout and its plan."""

    change: ConfigOverride
    plan: Plan


def search(
    config: RunConfig, target: Target, check: Callable[[RunConfig], Plan] | None = None
) -> list[SearchResult]:
    """Layouts that fit, fastest first; with `check` (a compiler) the best few by the estimate, and no others.

    The layout as the config has it (a change without words) is always among them. Raises ConfigError where
    none fits.
    """
    found = [found for mesh in meshes(config, target) for found in _fitting(config, target, mesh)]
    found = [*_as_it_is(config, target), *sorted(found, key=_order)]
    if check is not None:
        found = [one._replace(plan=check(apply(config, one.change))) for one in found[: HANDFUL + 1]]
    fitting = sorted((one for one in found if one.plan.fits), key=_order)
    if not fitting:
        raise ConfigError(f"no mesh, microbatches and remat of this config fit {target.text}")
    return fitting


def meshes(config: RunConfig, target: Target) -> Iterator[dict[str, int]]:
    """Sizes of data, fsdp and tensor (up to 8) that fill the target and that the batch divides over.

    fsdp is 1, the devices of an island (what the fast network joins), all, or as the config has it.
    """
    devices, own = target.num_devices, 1
    with contextlib.suppress(ConfigError):  # a mesh for other devices
        own = config.mesh.sizes(devices)["fsdp"]
    for tensor in (1, 2, 4, 8):
        rest = devices // tensor
        if devices % tensor or config.train.batch_size % rest:
            continue
        for fsdp in sorted({1, own, max(1, rest // target.islands), rest}):
            if rest % fsdp == 0:
                yield {"data": rest // fsdp, "fsdp": fsdp, "tensor": tensor}


def _fitting(config: RunConfig, target: Target, mesh: dict[str, int]) -> Iterator[SearchResult]:
    """On one mesh: for each remat the fewest microbatches that fit, until nothing more is gained."""
    rows = config.train.batch_size // (mesh["data"] * mesh["fsdp"])
    fields = {f"mesh__{axis}": size for axis, size in mesh.items()} | {"mesh__rules": "fsdp_tp_cp"}
    for remat in dict.fromkeys((config.model.execution.remat, *REMAT)):
        for parts in _powers(rows):
            layout = change(**fields, train__microbatches=parts, model__execution__remat=remat)
            try:
                found = estimate(apply(config, layout), target, traced=False)
            except ConfigError:
                return  # what does not divide
            if found.fits:
                yield SearchResult(layout, found)
                break


def _as_it_is(config: RunConfig, target: Target) -> Iterator[SearchResult]:
    with contextlib.suppress(ConfigError):  # it does not divide over the target
        yield SearchResult(change(), estimate(config, target))


def pareto_front(found: list[SearchResult]) -> list[SearchResult]:
    """Of these, those that nothing is both faster and smaller than."""
    best, kept = math.inf, []
    for one in sorted(found, key=_order):
        if one.plan.memory["total"] < best:
            best = one.plan.memory["total"]
            kept.append(one)
    return kept


def _order(one: SearchResult) -> tuple[float, float]:
    """A compiler's step time; by the estimate the time in which nothing hides anything, for a roofline
    cannot tell layouts apart whose products are the same."""
    estimated = one.plan.method == "analytic"
    return sum(one.plan.times.values()) if estimated else one.plan.step_ms, one.plan.memory["total"]


def _powers(number: int) -> list[int]:
    """1 and the number's divisors that are powers of two, and itself."""
    return sorted({2**k for k in range(number.bit_length()) if number % 2**k == 0} | {number})
