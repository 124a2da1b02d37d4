"""Time of a step's traffic on a machine's links, if they do nothing else."""

import math
from collections.abc import Mapping

from tlx.plan.target import Target
from tlx.plan.traffic import Traffic


def network_seconds(traffic: Traffic, mesh: Mapping[str, int], target: Target) -> float:
    """Return the time of the busier network: the fast one within an island, or the slow one between islands.

    An island is a TPU slice or a host of GPUs. The first mesh axes (data, then fsdp) cross islands where
    there are several. Of the traffic along such an axis all but 1 / (devices of it within an island) stays on
    the fast links.

    Args:
        traffic: {kind: {"axis" or "axis+axis": bytes that a device sends}}.
        mesh: {axis: devices}.
        target: Hardware with its links.

    Returns:
        Seconds a step.
    """
    crossing = _crossing(mesh, target)
    fast = 0.0
    slow = 0.0
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
    """Return {axis: islands along it}."""
    left = target.islands
    crossing = {}
    for axis, size in mesh.items():
        part = math.gcd(size, left)
        if part > 1:
            crossing[axis] = part
            left //= part
    return crossing
