"""Search for the fastest layout that fits: mesh, microbatches and remat, by the estimate, then a compiler."""

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

# Layouts of the fastest tensor size that are compiled besides the first one.
OTHERS = 3


class SearchResult(NamedTuple):
    """A layout and its plan."""

    change: ConfigOverride
    """Overrides that make the config's layout this one; without words the config's own."""
    plan: Plan
    """Plan of the config with them."""


def search(
    config: RunConfig, target: Target, check: Callable[[RunConfig], Plan] | None = None
) -> list[SearchResult]:
    """Return layouts that fit, fastest first; the config's own layout is always considered.

    Args:
        config: Checked config.
        target: Hardware that is planned for.
        check: Plans a config by a compiler. With it only a few are returned, as the compiler plans them: the best of
            each size of tensor by the estimate, and then more of the size that is fastest.

    Returns:
        One or more layouts with their plans.

    Raises:
        ConfigError: Where no layout fits.
    """
    by_mesh = [layout for mesh in meshes(config, target) for layout in _fitting(config, target, mesh)]
    own = list(_as_it_is(config, target))
    by_estimate = _distinct(sorted(by_mesh, key=_order))
    if check is None:
        layouts = [*own, *by_estimate]
    else:
        layouts = _compiled(own, by_estimate, lambda layout: check(apply(config, layout.change)))
    fitting = sorted((layout for layout in layouts if layout.plan.fits), key=_order)
    if not fitting:
        raise ConfigError(f"no mesh, microbatches and remat of this config fit {target.text}")
    return fitting


def _distinct(layouts: list[SearchResult]) -> list[SearchResult]:
    """Leave out layouts of one mesh with the same estimate: what they keep differs in tensors that there are not."""
    distinct = {}
    for layout in layouts:
        distinct.setdefault((*_mesh(layout), *_order(layout)), layout)
    return list(distinct.values())


def _compiled(
    own: list[SearchResult], by_estimate: list[SearchResult], plan: Callable[[SearchResult], Plan]
) -> list[SearchResult]:
    """Return the layouts that are compiled, as the compiler plans them.

    The estimate compares layouts of one tensor size well, and those of different sizes badly: it does not know what
    the compiler overlaps.
    """
    firsts: dict[int, SearchResult] = {}
    for layout in by_estimate:
        firsts.setdefault(_mesh(layout)[2], layout)
    layouts = [layout._replace(plan=plan(layout)) for layout in (*own, *firsts.values())]
    fitting = [layout for layout in layouts[len(own) :] if layout.plan.fits]
    if fitting:
        fastest = _mesh(min(fitting, key=_order))
        # Of each other mesh of that size the first, which is the best.
        others = {_mesh(layout): layout for layout in reversed(by_estimate) if _mesh(layout) != fastest}
        alike = sorted((layout for mesh, layout in others.items() if mesh[2] == fastest[2]), key=_order)
        layouts += [layout._replace(plan=plan(layout)) for layout in alike[:OTHERS]]
    return layouts


def _mesh(layout: SearchResult) -> tuple[int, int, int]:
    """Return the sizes of data, fsdp and tensor of a layout that the search made."""
    mesh = layout.plan.mesh
    return mesh["data"], mesh["fsdp"], mesh["tensor"]


def meshes(config: RunConfig, target: Target) -> Iterator[dict[str, int]]:
    """Yield sizes of data, fsdp and tensor (up to 8) that fill the target and divide the batch.

    fsdp is a power of two, the devices of an island (what the fast network joins), all, or as the config has it.
    """
    devices = target.num_devices
    configured = 1
    with contextlib.suppress(ConfigError):  # a mesh for other devices
        configured = config.mesh.sizes(devices)["fsdp"]
    for tensor in (1, 2, 4, 8):
        left = devices // tensor
        if devices % tensor or config.train.batch_size % left:
            continue
        sizes = {configured, max(1, left // target.islands), *_powers(left)}
        for fsdp in sorted(size for size in sizes if left % size == 0):
            yield {"data": left // fsdp, "fsdp": fsdp, "tensor": tensor}


def pareto_front(candidates: list[SearchResult]) -> list[SearchResult]:
    """Return the layouts that no other one is both faster and smaller than, fastest first."""
    smallest = math.inf
    front = []
    for layout in sorted(candidates, key=_order):
        if layout.plan.memory["total"] < smallest:
            smallest = layout.plan.memory["total"]
            front.append(layout)
    return front


def _fitting(config: RunConfig, target: Target, mesh: dict[str, int]) -> Iterator[SearchResult]:
    """Yield, on one mesh and for each remat, the layout of the fewest microbatches that fits."""
    rows = config.train.batch_size // (mesh["data"] * mesh["fsdp"])
    fields = {f"mesh__{axis}": size for axis, size in mesh.items()} | {"mesh__rules": "fsdp_tp_cp"}
    for remat in dict.fromkeys((config.model.execution.remat, *REMAT)):
        for microbatches in _powers(rows):
            layout = change(**fields, train__microbatches=microbatches, model__execution__remat=remat)
            try:
                plan = estimate(apply(config, layout), target, traced=False)
            except ConfigError:
                return  # what does not divide
            if plan.fits:
                yield SearchResult(layout, plan)
                break


def _as_it_is(config: RunConfig, target: Target) -> Iterator[SearchResult]:
    """Yield the config's own layout where it divides over the target."""
    with contextlib.suppress(ConfigError):
        yield SearchResult(change(), estimate(config, target))


def _order(layout: SearchResult) -> tuple[float, float]:
    """Return (milliseconds, bytes) to sort by.

    By the estimate the milliseconds are those without any overlap: a roofline cannot distinguish layouts with
    the same products.
    """
    plan = layout.plan
    milliseconds = sum(plan.times.values()) if plan.method == "analytic" else plan.step_ms
    return milliseconds, plan.memory["total"]


def _powers(number: int) -> list[int]:
    """Return the number, and its divisors that are powers of two."""
    return sorted({2**k for k in range(number.bit_length()) if number % 2**k == 0} | {number})
