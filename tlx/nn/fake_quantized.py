"""Fake quantisation in training and products of integers in inference, symmetric and linear (Q8BERT).

Zafrir et al. 2019, arXiv:1910.06188: with M = 2^(bits - 1) - 1 and a threshold t, s = M / t,
q(x) = clamp(round(x s), -M, M) and fake(x) = q(x) / s; the gradient goes straight through, outside the range too.
A kernel's or table's threshold is its own largest magnitude, anew in each step. That of activations is a moving
average of the largest magnitude of each batch, t <- t - (1 - decay) (t - max |x|), which begins at the first batch's.

A step quantises by the averages before it, so that its gradient does not depend on microbatches; the paper's code by
those after it, which differ by (1 - decay) of the way to the batch's own. Activations of the first step, before
there is an average, are not quantised.
"""

import functools

import jax
import jax.numpy as jnp

from tlx.nn.config import QuantizationConfig


def levels(bits: int) -> int:
    """Return M, the largest magnitude of a quantised value."""
    return 2 ** (bits - 1) - 1


def quantize(x: jax.Array, threshold: jax.Array, bits: int) -> jax.Array:
    """Round values to the levels of a range.

    Args:
        x: float[...].
        threshold: float32[], the largest magnitude in range; an array of zeros has 0.
        bits: 2 to 8.

    Returns:
        q(x), whole numbers in float32.
    """
    top = levels(bits)
    # Half to even, as torch rounds.
    return jnp.clip(jnp.round(x.astype(jnp.float32) * _scale(threshold, bits)), -top, top)


def fake(x: jax.Array, threshold: jax.Array, bits: int) -> jax.Array:
    """Round values to the levels of a range, and back.

    Args:
        x: float[...].
        threshold: float32[], the largest magnitude in range.
        bits: 2 to 8.

    Returns:
        q(x) / s in the dtype of x.
    """
    return (quantize(x, threshold, bits) / _scale(threshold, bits)).astype(x.dtype)


def largest(x: jax.Array) -> jax.Array:
    """Return max |x|, float32 []."""
    return jnp.max(jnp.abs(x)).astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def fake_weights(weights: jax.Array, bits: int) -> jax.Array:
    """Fake quantisation of a kernel or table by its own largest magnitude; the gradient goes straight through."""
    return fake(weights, largest(weights), bits)


fake_weights.defvjp(lambda weights, bits: (fake_weights(weights, bits), None), lambda bits, _, g: (g,))


def fake_activations(x: jax.Array, range_2: jax.Array | None, config: QuantizationConfig) -> jax.Array:
    """Fake quantisation of activations.

    Args:
        x: float[...].
        range_2: float32[2], the average and the number of batches that it has seen (base/observed.py); None: the
            batch's own largest magnitude is the threshold.
        config: bits and decay.

    Returns:
        An array like x.
    """
    if range_2 is None:
        return fake_weights(x, config.bits)
    return _by_average(x, range_2, config.bits, config.decay)


def threshold_of(x: jax.Array, range_2: jax.Array | None) -> jax.Array:
    """Return the threshold of activations, float32 []: the average, or without one the largest magnitude."""
    if range_2 is None:
        return largest(x)
    return jnp.where(range_2[1] > 0, range_2[0], largest(x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_average(x: jax.Array, range_2: jax.Array, bits: int, decay: float) -> jax.Array:
    return jnp.where(range_2[1] > 0, fake(x, range_2[0], bits), x)


def _by_average_forward(
    x: jax.Array, range_2: jax.Array, bits: int, decay: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The largest magnitude is kept, and not x: a number in place of an activation.
    return _by_average(x, range_2, bits, decay), (range_2, largest(x))


def _by_average_backward(
    bits: int, decay: float, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    range_2, seen = residuals
    average, count = range_2
    change = jnp.where(count > 0, (1 - decay) * (seen - average), seen)
    return g, jnp.stack([change, jnp.ones_like(change)]).astype(range_2.dtype)


_by_average.defvjp(_by_average_forward, _by_average_backward)


def integer_product(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, range_2: jax.Array | None, bits: int
) -> jax.Array:
    """Compute x W + b in integers: (q(x) . q(W) + q32(b)) / (s_x s_W).

    Args:
        x: float[..., inputs].
        kernel: W, float[inputs, outputs].
        bias: b, float[outputs]; None: none.
        range_2: the average of x, as `fake_activations` takes it.
        bits: 2 to 8.

    Returns:
        float[..., outputs] in the dtype of x. It equals the product of fake values but for the rounding of b and of
        float32 sums, which integers do not have.
    """
    x_threshold = threshold_of(x, range_2)
    kernel_threshold = largest(kernel)
    scale = _scale(x_threshold, bits) * _scale(kernel_threshold, bits)
    x_int = quantize(x, x_threshold, bits).astype(jnp.int8)
    kernel_int = quantize(kernel, kernel_threshold, bits).astype(jnp.int8)
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    y = jax.lax.dot_general(x_int, kernel_int, contract, preferred_element_type=jnp.int32)
    if bias is not None:
        y = y + jnp.round(bias.astype(jnp.float32) * scale).astype(jnp.int32)
    return (y.astype(jnp.float32) / scale).astype(x.dtype)


def _scale(threshold: jax.Array, bits: int) -> jax.Array:
    """Return s = M / t; t of an array of zeros counts as 1, so that it stays zeros."""
    return levels(bits) / jnp.where(threshold > 0, threshold, 1.0)
