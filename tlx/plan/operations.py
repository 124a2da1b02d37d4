"""FLOPs of a compiled module's matrix products, trip counts included."""

import math
import re
from collections.abc import Callable

import numpy as np

from tlx.plan.hlo import HloModule, Instruction, arrays, attribute, execution_counts, target_of

_ONE = {"size": 1, "stride": 1, "lhs_dilate": 1, "rhs_dilate": 1}


def matmul_flops(module: HloModule) -> int:
    """Count 2 x multiply-adds of all dots and convolutions that one device executes in a step.

    Of custom calls only cuBLAS's are counted.
    """
    total = 0
    times = execution_counts(module)
    for name, instructions in module.computations.items():
        if not times[name].times:
            continue
        shapes = {instruction.name: instruction.shape for instruction in instructions}
        for instruction in instructions:
            if count := _counter(instruction):
                total += times[name].times * count(instruction, _operands(instruction, shapes))
    return total


def _counter(instruction: Instruction) -> Callable[[Instruction, list[tuple[int, ...]]], int] | None:
    """Return the function that counts an instruction's FLOPs; None where it has none."""
    if instruction.opcode == "custom-call":
        return _cublas if target_of(instruction).startswith("__cublas$") else None
    return {"dot": _dot, "convolution": _convolution}.get(instruction.opcode)


def _operands(instruction: Instruction, shapes: dict[str, str]) -> list[tuple[int, ...]]:
    """Return the dims of both factors; a scheduled module names its operands without their shapes."""
    names = re.findall(r"%([\w.\-]+)", instruction.operands)
    return [arrays(shapes[name])[0][1] for name in names[:2]]


def _dot(instruction: Instruction, factors: list[tuple[int, ...]]) -> int:
    """Count a product of two arrays."""
    contracting = _numbers(attribute(instruction, "lhs_contracting_dims") or "{}")
    out = math.prod(arrays(instruction.shape)[0][1])
    return 2 * out * math.prod(factors[0][dim] for dim in contracting)


def _cublas(instruction: Instruction, factors: list[tuple[int, ...]]) -> int:
    """Count a cuBLAS call, whose workspace is a second result."""
    match = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)
    contracting = match[1] if match else ""
    out = math.prod(arrays(instruction.shape)[0][1])
    return 2 * out * math.prod(factors[0][dim] for dim in _numbers(contracting))


def _convolution(instruction: Instruction, factors: list[tuple[int, ...]]) -> int:
    """Count a convolution: a TPU's products are such, their batch dims windows that are mostly padding."""
    left, right, result = re.split("_|->", attribute(instruction, "dim_labels") or "")
    out = arrays(instruction.shape)[0][1]
    spatial = [label for label in result if label.isdigit()]
    window = _window(attribute(instruction, "window") or "{}", len(spatial))
    groups = int(attribute(instruction, "batch_group_count") or 1)
    total = 2 * out[result.index("f")] * factors[1][right.index("i")] * factors[0][left.index("b")] // groups
    for dim, label in enumerate(spatial):
        total *= _valid(factors[0][left.index(label)], out[result.index(label)], window[dim])
    return total


def _valid(size: int, out: int, window: dict[str, int]) -> int:
    """Count the pairs of an output and a kernel position that read an element of the input, not padding."""
    at = (
        np.arange(out)[:, None] * window["stride"]
        + np.arange(window["size"]) * window["rhs_dilate"]
        - window["pad"]
    )
    inside = (at >= 0) & (at <= (size - 1) * window["lhs_dilate"]) & (at % window["lhs_dilate"] == 0)
    return int(inside.sum())


def _window(text: str, dims: int) -> list[dict[str, int]]:
    """Parse {size=3x1 pad=1_1x0_0 stride=...} into one dict a dim; of a padding the part before."""
    window = [dict(_ONE, pad=0) for _ in range(dims)]
    for name, values in re.findall(r"(\w+)=([\dx_\-]+)", text):
        for dim, value in enumerate(values.split("x")):
            if name == "pad":
                window[dim]["pad"] = int(value.split("_")[0])
            elif name in _ONE:
                window[dim][name] = int(value)
    return window


def _numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", text)]
