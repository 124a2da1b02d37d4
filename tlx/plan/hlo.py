"""An optimised module of XLA, read from its text: instructions, and how often each of them runs."""

import collections
import json
import re
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", re.DOTALL)
_END = re.compile(r"^\}(, execution_thread=.*)?$")
_ARRAY = re.compile(r"([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|true_computation|false_computation|called_computations|branch_computations)"
    r"=(\{[^}]*\}|%?[\w.\-]+)"
)
_BYTES = {"pred": 1, "token": 0, "opaque": 0}


class Instruction(NamedTuple):
    name: str
    shape: str  # of the result, as written; a tuple in parentheses
    opcode: str
    operands: str  # as written between the parentheses
    attributes: str  # what follows them


class HloModule(NamedTuple):
    computations: dict[str, list[Instruction]]  # callees before their callers
    entry: str


class ExecutionCounts(NamedTuple):
    """How often a computation runs in a step: in all, and as a line of the schedule (not inside a fusion)."""

    times: int
    scheduled: int


def parse(text: str) -> HloModule:
    """The module that `compiled.as_text()` gives."""
    computations: dict[str, list[Instruction]] = {}
    entry, current, pending = "", None, ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is None:
            continue
        elif _INSTRUCTION.match(line) or _END.match(line):
            if pending:
                current.append(_instruction(pending))
            pending = "" if _END.match(line) else line
            current = None if _END.match(line) else current
        else:
            pending += line
    if not entry:
        raise ValueError("the text has no ENTRY computation: it is no module of XLA")
    return HloModule(computations, entry)


def execution_counts(module: HloModule) -> dict[str, ExecutionCounts]:
    """Runs of each computation in one step, loop counts included. Both branches of a choice count."""
    times: dict[str, int] = collections.Counter({module.entry: 1})
    scheduled: dict[str, int] = collections.Counter({module.entry: 1})
    for name in reversed(module.computations):
        for instruction in module.computations[name]:
            if instruction.opcode.endswith(("-done", "-update")):
                continue
            factor = trip_count(module, instruction) if instruction.opcode == "while" else 1
            for called in called_computations(instruction):
                times[called] += factor * times[name]
                if instruction.opcode in ("while", "call", "conditional"):
                    scheduled[called] += factor * scheduled[name]
    return {name: ExecutionCounts(times[name], scheduled[name]) for name in module.computations}


def called_computations(instruction: Instruction) -> list[str]:
    """Names of the computations that an instruction runs."""
    names = []
    for _, value in _CALLED.findall(instruction.attributes):
        names += [word.strip().lstrip("%") for word in value.strip("{}").split(",") if word.strip()]
    return names


def trip_count(module: HloModule, loop: Instruction) -> int:
    """Iterations of a while loop: as XLA noted them, or the bound that its condition compares with."""
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(found[1])
    (condition,) = re.findall(r"condition=%?([\w.\-]+)", loop.attributes)
    bounds = [
        int(instruction.operands)
        for name in (condition, *_below(module, condition))
        for instruction in module.computations[name]
        if instruction.opcode == "constant" and re.match(r"[su](32|64)\[\]", instruction.shape)
    ]
    if len(bounds) != 1:
        raise ValueError(f"loop {loop.name}: its condition {condition} compares with {bounds}, not one bound")
    return bounds[0]


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, dims) of each array in a shape as written."""
    return [(kind, tuple(int(n) for n in dims.split(",") if n)) for kind, dims in _ARRAY.findall(shape)]


def num_bytes(dtype: str, dims: tuple[int, ...]) -> int:
    """Size of an array, without the padding of its layout."""
    size = 1
    for dim in dims:
        size *= dim
    if dtype in _BYTES:
        return _BYTES[dtype] * size
    return size * int(re.match(r"[a-z]+(\d+)", dtype)[1]) // 8


def attribute(instruction: Instruction, name: str) -> str | None:
    """The value of `name=` up to the next comma at its level; None without one."""
    found = re.search(rf"(?:^|[ ,]){name}=", instruction.attributes)
    return _until_comma(instruction.attributes[found.end() :]) if found else None


def estimated_cycles(instruction: Instruction) -> int:
    """What the TPU compiler's cost model gives an instruction; 0 where it gives nothing."""
    found = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return int(found[1]) if found else 0


def stated_cost(instruction: Instruction) -> tuple[int, int] | None:
    """(FLOPs, bytes) that a Pallas kernel was written with; None without them."""
    found = re.search(
        r'"cost_estimate":\{"flops":"(\d+)"[^}]*"bytes_accessed":"(\d+)"', instruction.attributes
    )
    return (int(found[1]), int(found[2])) if found else None


def target_of(instruction: Instruction) -> str:
    """The name of the kernel that a custom call runs."""
    value = attribute(instruction, "custom_call_target")
    return json.loads(value) if value else ""


def _instruction(line: str) -> Instruction:
    name, rest = _INSTRUCTION.match(line).groups()
    end = _close(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    start = rest.index("(")
    stop = _close(rest, start)
    return Instruction(name, shape, rest[:start], rest[start + 1 : stop], rest[stop + 1 :].lstrip(", "))


def _close(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if not depth:
            return index
    raise ValueError(f"no end of the parenthesis in {text[start : start + 80]!r}")


def _until_comma(text: str) -> str:
    depth = 0
    for index, letter in enumerate(text):
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            return text[:index]
    return text


def _below(module: HloModule, name: str) -> list[str]:
    """All computations that one runs, directly or not."""
    found = []
    for instruction in module.computations[name]:
        for called in called_computations(instruction):
            found += [called, *_below(module, called)]
    return found
