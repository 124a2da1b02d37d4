"""Floating-point operations, counted exactly: every matrix multiplication of a traced function."""

import math
from collections.abc import Callable
from typing import Any

import jax


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """2 x multiply-adds of all matrix multiplications and convolutions of function(*args).

    `args` may be ShapeDtypeStructs. Scan bodies count once per iteration; elementwise work counts nothing.
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
            total += max(_count(branch.jaxpr) for branch in equation.params["branches"])
        elif name == "while":
            raise NotImplementedError("a while loop has no number of iterations to count")
        else:
            inner = sum(_count(getattr(sub, "jaxpr", sub)) for sub in _subjaxprs(equation.params))
            total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def _subjaxprs(params: dict[str, Any]) -> list[Any]:
    values = [value for key, value in params.items() if key in ("jaxpr", "call_jaxpr", "fun_jaxpr")]
    return [value for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]


def _dot(equation: Any) -> int:
    left, right = (variable.aval.shape for variable in equation.invars[:2])
    (contract, _), (batch, _) = equation.params["dimension_numbers"]
    contracted = math.prod(left[i] for i in contract)
    return 2 * math.prod(equation.outvars[0].aval.shape) * contracted if right is not None else 0


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // out_features
