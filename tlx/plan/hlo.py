"""An optimised module of XLA, parsed from its text: instructions, and how often each is executed."""

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
    """One line of a computation."""

    name: str
    """Name of the result."""
    shape: str
    """Shape of the result as written; a tuple is in parentheses."""
    opcode: str
    """Opcode, such as dot or all-gather."""
    operands: str
    """Text between the parentheses."""
    attributes: str
    """Text after them."""


class HloModule(NamedTuple):
    """A module of XLA."""

    computations: dict[str, list[Instruction]]
    """Instructions by computation, callees before their callers."""
    entry: str
    """Name of the computation that a step starts with."""


class ExecutionCounts(NamedTuple):
    """Number of executions of a computation in a step."""

    times: int
    """Number of all executions."""
    scheduled: int
    """Those as lines of the schedule, not inside a fusion."""


def parse(text: str) -> HloModule:
    """Parse the text of `compiled.as_text()`; ValueError where it is no module."""
    computations: dict[str, list[Instruction]] = {}
    entry = ""
    current: list[Instruction] | None = None  # of the computation that is read
    pending = ""  # text of an instruction that may go on in the next line
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
    """Return the executions of each computation in a step, trip counts included; both branches count."""
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
    """Return the names of the computations that an instruction executes."""
    names = []
    for _, value in _CALLED.findall(instruction.attributes):
        names += [word.strip().lstrip("%") for word in value.strip("{}").split(",") if word.strip()]
    return names


def trip_count(module: HloModule, loop: Instruction) -> int:
    """Return the iterations of a while loop: as XLA noted them, or the bound of its condition."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(known[1])
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
    """Return (dtype, dims) of each array in a shape as written."""
    return [(kind, tuple(int(n) for n in dims.split(",") if n)) for kind, dims in _ARRAY.findall(shape)]


def num_bytes(dtype: str, dims: tuple[int, ...]) -> int:
    """Return the size of an array without the padding of its layout."""
    size = 1
    for dim in dims:
        size *= dim
    if dtype in _BYTES:
        return _BYTES[dtype] * size
    bits = re.match(r"[a-z]+(\d+)", dtype)
    if bits is None:
        raise ValueError(f"{dtype!r} is no dtype of known size")
    return size * int(bits[1]) // 8


def attribute(instruction: Instruction, name: str) -> str | None:
    """Return the value of `name=` up to the next comma at its level; None without one."""
    match = re.search(rf"(?:^|[ ,]){name}=", instruction.attributes)
    return _until_comma(instruction.attributes[match.end() :]) if match else None


def estimated_cycles(instruction: Instruction) -> int:
    """Return the cycles of an instruction by the TPU compiler's cost model; 0 where it has none."""
    match = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return int(match[1]) if match else 0


def stated_cost(instruction: Instruction) -> tuple[int, int] | None:
    """Return (FLOPs, bytes) that a Pallas kernel states; None where it states none."""
    match = re.search(
        r'"cost_estimate":\{"flops":"(\d+)"[^}]*"bytes_accessed":"(\d+)"', instruction.attributes
    )
    return (int(match[1]), int(match[2])) if match else None


def target_of(instruction: Instruction) -> str:
    """Return the name of the kernel that a custom call executes."""
    value = attribute(instruction, "custom_call_target")
    return json.loads(value) if value else ""


def _instruction(line: str) -> Instruction:
    """Parse "NAME = SHAPE OPCODE(OPERANDS), ATTRIBUTES"."""
    match = _INSTRUCTION.match(line)
    if match is None:
        raise ValueError(f"{line[:80]!r} is no instruction")
    name, definition = match.groups()
    end = _close(definition, 0) + 1 if definition.startswith("(") else definition.index(" ")
    call = definition[end:].strip()
    start = call.index("(")
    stop = _close(call, start)
    return Instruction(
        name=name,
        shape=definition[:end],
        opcode=call[:start],
        operands=call[start + 1 : stop],
        attributes=call[stop + 1 :].lstrip(", "),
    )


def _close(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if not depth:
            return index
    raise ValueError(f"no end of the parenthesis in {text[start : start + 80]!r}")


def _until_comma(text: str) -> str:
    """Return the text before the first comma outside brackets."""
    depth = 0
    for index, letter in enumerate(text):
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            return text[:index]
    return text


def _below(module: HloModule, name: str) -> list[str]:
    """Return all computations that one executes, directly or not."""
    names = []
    for instruction in module.computations[name]:
        for called in called_computations(instruction):
            names += [called, *_below(module, called)]
    return names
