"""Floating-point operations of a compiled module: those of its matrix products, loop counts included."""

import math
import re
from collections.abc import Callable

import numpy as np

from tlx.plan.hlo import HloModule, Instruction, arrays, attribute, execution_counts, target_of

_ONE = {"size": 1, "stride": 1, "lhs_dilate": 1, "rhs_dilate": 1}


def matmul_flops(module: HloModule) -> int:
    """2 x multiply-adds of all dots and convolutions that one device runs in a step.

    Kernels that are not XLA's own (custom calls) are not seen, but for those of cuBLAS.
    """
    total, times = 0, execution_counts(module)
    for name, instructions in module.computations.items():
        if not times[name].times:
            continue
        shapes = {instruction.name: instruction.shape for instruction in instructions}
        for instruction in instructions:
            if count := _counter(instruction):
                total += times[name].times * count(instruction, _operands(instruction, shapes))
    return total


def _counter(instruction: Instruction) -> Callable[[Instruction, list[tuple[int, ...]]], int] | None:
    """What counts the multiply-adds of an instruction; None where it has none."""
    if instruction.opcode == "custom-call":
        return _cublas if target_of(instruction).startswith("__cublas$") else None
    return {"dot": _dot, "convolution": _convolution}.get(instruction.opcode)


def _operands(instruction: Instruction, shapes: dict[str, str]) -> list[tuple[int, ...]]:
    """Dims of both factors; a scheduled module names its operands without their shapes."""
    names = re.findall(r"%([\w.\-]+)", instruction.operands)
    return [arrays(shapes[name])[0][1] for name in names[:2]]


def _dot(instruction: Instruction, factors: list[tuple[int, ...]]) -> int:
    contracting = _numbers(attribute(instruction, "lhs_contracting_dims") or "{}")
    out = math.prod(arrays(instruction.shape)[0][1])
    return 2 * out * math.prod(factors[0][dim] for dim in contracting)


def _cublas(instruction: Instruction, factors: list[tuple[int, ...]]) -> int:
    """The GPU compiler's call of a product; its workspace is a second result."""
    contracting = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)[1]
    out = math.prod(arrays(instruction.shape)[0][1])
    return 2 * out * math.prod(factors[0][dim] for dim in _numbers(contracting))


def _convolution(instruction: Instruction, factors: list[tuple[int, ...]]) -> int:
    """The TPU compiler writes products as convolutions, batch dims as windows that are mostly padding."""
    left, right, result = re.split("_|->", attribute(instruction, "dim_labels"))
    out, spatial = arrays(instruction.shape)[0][1], [label for label in result if label.isdigit()]
    window = _window(attribute(instruction, "window") or "{}", len(spatial))
    groups = int(attribute(instruction, "batch_group_count") or 1)
    total = 2 * out[result.index("f")] * factors[1][right.index("i")] * factors[0][left.index("b")] // groups
    for place, label in enumerate(spatial):
        total *= _valid(factors[0][left.index(label)], out[result.index(label)], window[place])
    return total


def _valid(size: int, out: int, window: dict[str, int]) -> int:
    """Pairs of an output place and a kernel place that meet an element of the input, not its padding."""
    at = (
        np.arange(out)[:, None] * window["stride"]
        + np.arange(window["size"]) * window["rhs_dilate"]
        - window["pad"]
    )
    inside = (at >= 0) & (at <= (size - 1) * window["lhs_dilate"]) & (at % window["lhs_dilate"] == 0)
    return int(inside.sum())


def _window(text: str, dims: int) -> list[dict[str, int]]:
    window = [dict(_ONE, pad=0) for _ in range(dims)]
    for name, values in re.findall(r"(\w+)=([\dx_\-]+)", text):
        for place, value in enumerate(values.split("x")):
            if name == "pad":
                window[place]["pad"] = int(value.split("_")[0])
            elif name in _ONE:
                window[place][name] = int(value)
    return window


def _numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", text)]
