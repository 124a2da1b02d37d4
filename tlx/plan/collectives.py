"""What a compiled step sends between devices: bytes by kind of collective and by mesh axis."""

import collections
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tlx.plan.hlo import HloModule, Instruction, arrays, attribute, execution_counts, num_bytes

_SCATTER = re.compile(r"^all-reduce-scatter")  # computations
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """One collective of the module. bytes: that a device sends each time, over the best ring."""

    name: str
    kind: str
    axes: tuple[str, ...]  # of the mesh, that its groups go along
    bytes: float
    times: int  # a step
    overlapped: bool  # it runs beside computation


def collectives(module: HloModule, mesh: Mapping[str, int]) -> list[Collective]:
    """All collectives of a step; `mesh` as {axis: size}, in the order that its devices are numbered.

    A group of n devices: a gather sends (n-1)/n of its result, a scatter of what it reduces, a reduction
    twice that. A TPU's scatter is written as a reduction in a fusion that keeps a slice of it.
    """
    times, found, seen = execution_counts(module), [], set()
    for name, instructions in module.computations.items():
        shapes = {instruction.name: instruction.shape for instruction in instructions}
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS or not times[name].times:
                continue
            scatter = _SCATTER.search(name) is not None and kind == "all-reduce"
            kind = "reduce-scatter" if scatter else kind
            fused = not times[name].scheduled and not scatter
            # A gather that is spread over several fusions stands in each of them, under one number.
            channel = attribute(instruction, "channel_id") if fused else None
            if channel is not None and channel in seen:
                continue
            seen.add(channel)
            group = _group(instruction, math.prod(mesh.values()))
            if len(group) > 1:
                size = _sent(kind, instruction, shapes, len(group))
                overlapped = fused or instruction.opcode.endswith("-start")
                axes = _axes(group, mesh)
                found.append(Collective(instruction.name, kind, axes, size, times[name].times, overlapped))
    return found


def by_kind_and_axis(found: list[Collective]) -> dict[str, dict[str, float]]:
    """{kind: {"fsdp" or "fsdp+tensor": bytes that a device sends in a step}}."""
    totals: dict[str, dict[str, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
    for one in found:
        totals[one.kind]["+".join(one.axes)] += one.bytes * one.times
    return {kind: dict(axes) for kind, axes in totals.items()}


def _sent(kind: str, instruction: Instruction, shapes: Mapping[str, str], group: int) -> float:
    operands = [shapes[name] for name in re.findall(r"%([\w.\-]+)", instruction.operands) if name in shapes]
    given = sum(num_bytes(*array) for shape in operands for array in arrays(shape))
    share = (group - 1) / group
    factors = {
        "all-gather": given * group * share,
        "reduce-scatter": given * share,
        "all-reduce": 2 * given * share,
        "all-to-all": given * share,
        "collective-permute": float(given),
    }
    return factors[kind]


def _group(instruction: Instruction, devices: int) -> list[int]:
    """The first group of devices that exchange; a permutation's: the longest of its rings."""
    if instruction.opcode.startswith("collective-permute"):
        return _ring(attribute(instruction, "source_target_pairs") or "{}")
    text = attribute(instruction, "replica_groups") or "{}"
    if text.startswith("mesh["):
        whole = re.search(r"replica_groups=(mesh\[[^{]*\{[^}]*\})", instruction.attributes)
        return _named_group(whole[1], devices)
    if found := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, sides = ([int(n) for n in part.split(",")] for part in found.groups()[:2])
        ids = np.arange(math.prod(sides)).reshape(sides)
        if found[3]:
            ids = ids.transpose([int(n) for n in found[3].split(",")])
        return ids.reshape(shape)[0].tolist()
    first = re.search(r"\{([\d,]+)\}", text)
    return [int(n) for n in first[1].split(",")] if first else list(range(devices))


def _named_group(text: str, devices: int) -> list[int]:
    """mesh['a'=16,'b'=16] {'b'}: devices numbered along a, then b; groups go along b, or a part of it."""
    body, _, rest = text.partition("]")
    along = rest[rest.rindex("{") :]
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", body)}
    ids, names = _order(text, devices).reshape(list(sizes.values())), list(sizes)
    index: list[object] = [0] * len(names)
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along):
        place, size = names.index(name), sizes[name]
        step = size // (int(before) * int(part)) if before else 1
        index[place] = slice(0, step * int(part), step) if before else slice(None)
    return np.asarray(ids[tuple(index)]).ravel().tolist()


def _order(text: str, devices: int) -> np.ndarray:
    """device_ids=([8,256]T(1,0)): the devices counted along these sides, turned; or all of them listed."""
    if found := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        ids = np.arange(devices).reshape([int(n) for n in found[1].split(",")])
        return ids.transpose([int(n) for n in found[2].split(",")]).ravel() if found[2] else ids.ravel()
    found = re.search(r"device_ids=\(([\d, ]+)\)", text)
    return np.array([int(n) for n in found[1].split(",")]) if found else np.arange(devices)


def _ring(text: str) -> list[int]:
    target = {int(a): int(b) for a, b in re.findall(r"\{(\d+),(\d+)\}", text)}
    longest: list[int] = []
    for start in target:
        ring, at = [start], target[start]
        while at in target and at not in ring:
            ring.append(at)
            at = target[at]
        ring += [] if at in ring else [at]
        longest = max(longest, ring, key=len)
    return longest


def _axes(group: list[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the places of a group's devices differ."""
    places = np.array(np.unravel_index(group, list(mesh.values())))
    return tuple(axis for axis, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1)
