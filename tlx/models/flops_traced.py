"""Floating-point operations, counted exactly: every matrix multiplication of a traced function."""

import math
from collections.abc import Callable
from typing import Any

import jax


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """Count 2 FLOPs per multiply-add of all matrix multiplications and convolutions of function(*args).

    Bodies of scans count once per iteration; elementwise work counts nothing.

    Args:
        function: what is traced, never run.
        *args: its arguments, which may be ShapeDtypeStructs.

    Returns:
        The number of FLOPs.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "cond":
            # One branch runs: the most expensive one is counted.
            total += max(_count(branch.jaxpr) for branch in equation.params["branches"])
        elif name == "while":
            if _count(equation.params["body_jaxpr"].jaxpr):
                raise NotImplementedError("a while loop with products has no number of iterations to count")
        else:
            body = sum(_count(getattr(sub, "jaxpr", sub)) for sub in _subjaxprs(equation.params))
            total += body * (equation.params["length"] if name == "scan" else 1)
    return total


def _subjaxprs(params: dict[str, Any]) -> list[Any]:
    """Programs inside an equation; those of a custom gradient's backward pass are not run forward."""
    values = [value for key, value in params.items() if key in ("jaxpr", "call_jaxpr", "fun_jaxpr")]
    return [value for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]


def _dot(equation: Any) -> int:
    left = equation.invars[0].aval.shape
    # The output has every dim but the contracted ones: its size times theirs is the number of multiply-adds.
    (contract, _), _ = equation.params["dimension_numbers"]
    contracted = math.prod(left[i] for i in contract)
    return 2 * math.prod(equation.outvars[0].aval.shape) * contracted


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // out_features
