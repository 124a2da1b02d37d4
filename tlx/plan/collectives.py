"""Traffic of a compiled step: bytes between devices by kind of collective and by mesh axis."""

import collections
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tlx.plan.hlo import HloModule, Instruction, arrays, attribute, execution_counts, num_bytes

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# Name of a computation that a TPU's reduce-scatter is written as.
_SCATTER = re.compile(r"^all-reduce-scatter")


class Collective(NamedTuple):
    """One collective of a module."""

    name: str
    """Name of the instruction."""
    kind: str
    """One of KINDS."""
    axes: tuple[str, ...]
    """Mesh axes along which its groups go."""
    bytes: float
    """Bytes that a device sends each time, over the best ring."""
    times: int
    """Executions in a step."""
    overlapped: bool
    """Whether it runs beside computation."""


def collectives(module: HloModule, mesh: Mapping[str, int]) -> list[Collective]:
    """Return all collectives of a step; `mesh` is {axis: size} in the order that its devices are numbered.

    In a group of n devices a gather sends (n-1)/n of its result, a scatter (n-1)/n of its operand, a
    reduction twice that. A TPU's scatter is written as a reduction in a fusion that keeps a slice of it.
    """
    times = execution_counts(module)
    result: list[Collective] = []
    channels: set[str] = set()
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
            if channel is not None:
                if channel in channels:
                    continue
                channels.add(channel)
            group = _group(instruction, math.prod(mesh.values()))
            if len(group) > 1:
                result.append(
                    Collective(
                        name=instruction.name,
                        kind=kind,
                        axes=_axes(group, mesh),
                        bytes=_sent(kind, instruction, shapes, len(group)),
                        times=times[name].times,
                        overlapped=fused or instruction.opcode.endswith("-start"),
                    )
                )
    return result


def by_kind_and_axis(collectives: list[Collective]) -> dict[str, dict[str, float]]:
    """Return {kind: {"fsdp" or "fsdp+tensor": bytes that a device sends in a step}}."""
    totals: dict[str, dict[str, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
    for collective in collectives:
        totals[collective.kind]["+".join(collective.axes)] += collective.bytes * collective.times
    return {kind: dict(axes) for kind, axes in totals.items()}


def _sent(kind: str, instruction: Instruction, shapes: Mapping[str, str], group: int) -> float:
    """Return the bytes that a device of a group of so many sends."""
    operands = [shapes[name] for name in re.findall(r"%([\w.\-]+)", instruction.operands) if name in shapes]
    size = sum(num_bytes(*array) for shape in operands for array in arrays(shape))
    fraction = (group - 1) / group
    factors = {
        "all-gather": size * group * fraction,
        "reduce-scatter": size * fraction,
        "all-reduce": 2 * size * fraction,
        "all-to-all": size * fraction,
        "collective-permute": float(size),
    }
    return factors[kind]


def _group(instruction: Instruction, devices: int) -> list[int]:
    """Return the first group of devices that exchange; of a permutation the longest of its rings."""
    if instruction.opcode.startswith("collective-permute"):
        return _ring(attribute(instruction, "source_target_pairs") or "{}")
    text = attribute(instruction, "replica_groups") or "{}"
    if text.startswith("mesh["):
        named = re.search(r"replica_groups=(mesh\[[^{]*\{[^}]*\})", instruction.attributes)
        if named is None:
            raise ValueError(f"replica groups of {instruction.name} cannot be read: {instruction.attributes}")
        return _named_group(named[1], devices)
    if match := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape = _numbers(match[1])
        ids = np.arange(math.prod(_numbers(match[2]))).reshape(_numbers(match[2]))
        if match[3]:
            ids = ids.transpose(_numbers(match[3]))
        return ids.reshape(shape)[0].tolist()
    first = re.search(r"\{([\d,]+)\}", text)
    return _numbers(first[1]) if first else list(range(devices))


def _named_group(text: str, devices: int) -> list[int]:
    """Parse mesh['a'=16,'b'=16] {'b'}: devices numbered along a, then b; groups along b or a part of it."""
    body, _, tail = text.partition("]")
    along = tail[tail.rindex("{") :]
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", body)}
    ids = _order(text, devices).reshape(list(sizes.values()))
    names = list(sizes)
    index: list[int | slice] = [0] * len(names)
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along):
        dim = names.index(name)
        step = sizes[name] // (int(before) * int(part)) if before else 1
        index[dim] = slice(0, step * int(part), step) if before else slice(None)
    return np.asarray(ids[tuple(index)]).ravel().tolist()


def _order(text: str, devices: int) -> np.ndarray:
    """Parse device_ids=([8,256]T(1,0)), devices counted along transposed sides, or a list of all of them."""
    if match := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        ids = np.arange(devices).reshape(_numbers(match[1]))
        return ids.transpose(_numbers(match[2])).ravel() if match[2] else ids.ravel()
    listed = re.search(r"device_ids=\(([\d, ]+)\)", text)
    return np.array(_numbers(listed[1])) if listed else np.arange(devices)


def _ring(text: str) -> list[int]:
    """Return the longest chain of devices in pairs {source,target}."""
    target = {int(a): int(b) for a, b in re.findall(r"\{(\d+),(\d+)\}", text)}
    longest: list[int] = []
    for start in target:
        ring = [start]
        device = target[start]
        while device in target and device not in ring:
            ring.append(device)
            device = target[device]
        if device not in ring:
            ring.append(device)
        longest = max(longest, ring, key=len)
    return longest


def _axes(group: list[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Return the mesh axes along which the coordinates of a group's devices differ."""
    coordinates = np.array(np.unravel_index(group, list(mesh.values())))
    return tuple(axis for axis, row in zip(mesh, coordinates, strict=True) if len(set(row.tolist())) > 1)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]
