"""How long a step's traffic takes on a machine's links, if it does nothing else."""

import math
from collections.abc import Mapping

from tlx.plan.target import Target
from tlx.plan.traffic import Traffic


def network_seconds(traffic: Traffic, mesh: Mapping[str, int], target: Target) -> float:
    """The time of the busier network: the fast one within a slice or host, and the slow one between them.

    Axes lie as the mesh lays them out: the first (data, then fsdp) cross slices or hosts where there are
    several. Of what goes along such an axis, all but a share of 1 / (devices of it within an island)
    stays on the fast links.
    """
    crossing = _crossing(mesh, target)
    fast = slow = 0.0
    for axes in traffic.values():
        for names, size in axes.items():
            outside = math.prod(crossing.get(axis, 1) for axis in names.split("+"))
            inside = math.prod(mesh[axis] for axis in names.split("+")) // outside
            if outside > 1:
                slow += size / max(1, inside)
            if inside > 1:
                fast += size
    chip = target.chip
    return max(
        fast * chip.devices / chip.link_bandwidth if fast else 0.0,
        slow * chip.devices / chip.network_bandwidth if slow else 0.0,
    )


def _crossing(mesh: Mapping[str, int], target: Target) -> dict[str, int]:
    """{axis: islands along it}: an island is a TPU slice, or a host of GPUs."""
    left, found = target.islands, {}
    for axis, size in mesh.items():
        part = math.gcd(size, left)
        if part > 1:
            found[axis], left = part, left // part
    return found
