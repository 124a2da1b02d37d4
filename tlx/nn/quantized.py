"""Matrix products in 8 bits, through qwix: half the time of 16 bits on chips that have them.

Those of feed-forward networks alone. Attention's are smaller: on 256 chips of v5e what they gain goes into
passes that look for the largest magnitudes, and their kernels' shards are too thin to be gathered as bytes.
"""

import functools
import importlib.util
import math

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError

# model.matmul: the types of what goes forward and of gradients. The latter reach further and are coarser.
FORMATS = {"int8": ("int8", "int8"), "fp8": ("float8_e4m3fn", "float8_e5m2")}


def check(name: str) -> None:
    """ConfigError where `model.matmul` names a format, and what computes in it is not installed."""
    if name in FORMATS and importlib.util.find_spec("qwix") is None:
        raise ConfigError(
            f"model.matmul = {name!r} needs qwix: pip install 'tlx-lm[quantized]', or choose 'dtype'"
        )


def product(x: jax.Array, kernel: jax.Array, count: int, name: str) -> jax.Array:
    """x[..., inputs] W[inputs, outputs] over `count` dims, in the dtype of x.

    Each row of x and each output of W is divided by its largest magnitude and rounded; sums are exact
    (int8: int32) or in float32. The gradient of x is made so too, of rows of the outputs' gradient and of
    W's inputs. That of W sums over all tokens, where what rounding does would add up, and stays in the dtype
    of x (SwitchBack: Wortsman et al. 2023, arXiv:2304.13013, 2).
    """
    rows, outputs = x.shape[: x.ndim - count], kernel.shape[count:]
    inputs = math.prod(kernel.shape[:count])
    y = _product(x.reshape(*rows, inputs), kernel.reshape(inputs, -1), name)
    return y.reshape(*rows, *outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, name: str) -> jax.Array:
    forward, rows = FORMATS[name][0], tuple(range(x.ndim - 1))
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    return _dot(_rounded(x, forward, rows), _rounded(kernel, forward, (1,)), contract, x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, name: str) -> tuple[jax.Array, tuple]:
    return _product(x, kernel, name), (x, kernel)


def _backward(name: str, kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    (forward, back), rows = FORMATS[name], tuple(range(x.ndim - 1))
    contract = (((x.ndim - 1,), (1,)), ((), ()))
    dx = _dot(_rounded(g, back, rows), _rounded(kernel, forward, (0,)), contract, x.dtype)
    dkernel = jax.lax.dot_general(x, g.astype(x.dtype), ((rows, rows), ((), ())))
    return dx, dkernel.astype(kernel.dtype)


_product.defvjp(_forward, _backward)


def _rounded(x: jax.Array, qtype: str, own: tuple[int, ...]):
    """x as qwix has it, with a scale in float32 for each place of the dims `own`."""
    import qwix

    return qwix.quantize(x.astype(jnp.float32), jnp.dtype(qtype), channelwise_axes=own)


def _dot(x, y, contract, dtype: jnp.dtype) -> jax.Array:
    import qwix

    return qwix.dot_general(x, y, contract).astype(dtype)
