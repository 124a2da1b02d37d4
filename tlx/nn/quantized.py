"""Matrix products in 8 bits, through qwix: half the time of 16 bits on chips that have them."""

import functools
import importlib.util

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: jax.Array, kernel: jax.Array, count: int, name: str) -> jax.Array:
    """x[..., inputs] W[inputs, outputs] over `count` dims, in the dtype of x.

    Each row of x and each output of W is divided by its largest magnitude and rounded; sums are exact
    (int8: int32) or in float32. The gradient of x is made so too, of rows of the outputs' gradient and of
    W's inputs. That of W sums over all tokens, where what rounding does would add up, and stays in the dtype
    of x (SwitchBack: Wortsman et al. 2023, arXiv:2304.13013, 2).
    """
    inputs, tokens = tuple(range(x.ndim - count, x.ndim)), tuple(range(x.ndim - count))
    forward = FORMATS[name][0]
    outputs = tuple(range(count, kernel.ndim))
    contract = ((inputs, tuple(range(count))), ((), ()))
    return _dot(_rounded(x, forward, tokens), _rounded(kernel, forward, outputs), contract, x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, count: int, name: str) -> tuple[jax.Array, tuple]:
    return product(x, kernel, count, name), (x, kernel)


def _backward(count: int, name: str, kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    tokens, outputs = tuple(range(x.ndim - count)), tuple(range(count, kernel.ndim))
    places = tuple(range(len(tokens), g.ndim))
    forward, back = FORMATS[name]
    dx = _dot(
        _rounded(g, back, tokens),
        _rounded(kernel, forward, tuple(range(count))),
        ((places, outputs), ((), ())),
        x.dtype,
    )
    dkernel = jax.lax.dot_general(x, g.astype(x.dtype), ((tokens, tokens), ((), ())))
    return dx, dkernel.astype(kernel.dtype)


product.defvjp(_forward, _backward)


def _rounded(x: jax.Array, qtype: str, own: tuple[int, ...]):
    """x as qwix has it, with a scale in float32 for each place of the dims `own`."""
    import qwix

    return qwix.quantize(x.astype(jnp.float32), jnp.dtype(qtype), channelwise_axes=own)


def _dot(x, y, contract, dtype: jnp.dtype) -> jax.Array:
    import qwix

    return qwix.dot_general(x, y, contract).astype(dtype)
