"""Matrix products in 8 bits through qwix: half the time of 16 bits on chips that have them.

Only those of feed-forward networks. Attention's are smaller: on 256 chips of v5e what they would gain goes
into the passes that look for the largest magnitudes, and their kernels' shards are too thin to be gathered
as bytes.
"""

import functools
import importlib.util
import math
from typing import Any, cast

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError

FORMATS = {"int8": ("int8", "int8"), "fp8": ("float8_e4m3fn", "float8_e5m2")}
"""model.matmul: (type of the forward pass, type of gradients), the latter of wider range and less
precision."""


def check(name: str) -> None:
    """Raise ConfigError where `model.matmul` names an 8-bit format and qwix is not installed."""
    if name in FORMATS and importlib.util.find_spec("qwix") is None:
        raise ConfigError(
            f"model.matmul = {name!r} needs qwix: pip install 'tlx-lm[quantized]', or choose 'dtype'"
        )


def product(x: jax.Array, kernel: jax.Array, count: int, name: str) -> jax.Array:
    """Compute x[..., inputs] W[inputs, outputs] in 8 bits.

    Each row of x and each output of W is divided by its largest magnitude and rounded; sums are exact
    (int8, in int32) or in float32. The gradient of x is computed in 8 bits too, from rows of the outputs'
    gradient and inputs of W. The gradient of W sums over all tokens, where rounding errors would add up,
    and stays in the dtype of x (SwitchBack: Wortsman et al. 2023, arXiv:2304.13013, 2).

    Args:
        x: float[..., inputs].
        kernel: W, float[inputs, outputs].
        count: number of input dims.
        name: a format of FORMATS.

    Returns:
        float[..., outputs] in the dtype of x.
    """
    rows = x.shape[: x.ndim - count]
    outputs = kernel.shape[count:]
    inputs = math.prod(kernel.shape[:count])
    y = cast(jax.Array, _product(x.reshape(*rows, inputs), kernel.reshape(inputs, -1), name))
    return y.reshape(*rows, *outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, name: str) -> jax.Array:
    forward_type = FORMATS[name][0]
    rows = tuple(range(x.ndim - 1))
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    return _dot(_quantize(x, forward_type, rows), _quantize(kernel, forward_type, (1,)), contract, x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, name: str) -> tuple[jax.Array, tuple]:
    return _product(x, kernel, name), (x, kernel)


def _backward(name: str, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    forward_type, gradient_type = FORMATS[name]
    rows = tuple(range(x.ndim - 1))
    contract = (((x.ndim - 1,), (1,)), ((), ()))
    dx = _dot(_quantize(g, gradient_type, rows), _quantize(kernel, forward_type, (0,)), contract, x.dtype)
    # Not in 8 bits: this sum over tokens would add rounding errors up.
    dkernel = jax.lax.dot_general(x, g.astype(x.dtype), ((rows, rows), ((), ())))
    return dx, dkernel.astype(kernel.dtype)


_product.defvjp(_forward, _backward)


def _quantize(x: jax.Array, qtype: str, channel_dims: tuple[int, ...]) -> Any:
    """Round x to 8 bits, with a float32 scale for each index of `channel_dims`."""
    # Imported where it is used: an extra that most runs do not have.
    import qwix

    return qwix.quantize(x.astype(jnp.float32), jnp.dtype(qtype), channelwise_axes=channel_dims)


def _dot(x: Any, y: Any, contract: Any, dtype: jnp.dtype) -> jax.Array:
    """Multiply two quantized arrays."""
    import qwix

    return qwix.dot_general(x, y, contract).astype(dtype)
