"""Fake quantisation in training and products of integers in inference, symmetric and linear (Q8BERT).

Zafrir et al. 2019, arXiv:1910.06188 (Q8BERT): with M = 2^(bits - 1) - 1 and a threshold t, s = M / t,
q(x) = clamp(round(x s), -M, M) and fake(x) = q(x) / s; the gradient goes straight through, outside the range too.
A kernel's or table's threshold is its own largest magnitude, anew in each step; with groups that of each group of
outputs, of bits of their own (Shen et al. 2020, arXiv:1909.05840: Q-BERT). That of activations is a moving
average of the largest magnitude of each batch, t <- t - (1 - decay) (t - max |x|), which begins at the first batch's.

A step quantises by the averages before it, so that its gradient does not depend on microbatches; the paper's code by
those after it, which differ by (1 - decay) of the way to the batch's own. Activations of the first step, before
there is an average, are not quantised.

Shapes: I inputs, O outputs of a kernel.
"""

import functools
import math

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
        threshold: float32[], or of the last dims of x: the largest magnitude in range; of zeros it is 0.
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
        threshold: as `quantize` takes it.
        bits: 2 to 8.

    Returns:
        q(x) / s in the dtype of x.
    """
    return (quantize(x, threshold, bits) / _scale(threshold, bits)).astype(x.dtype)


def largest(x: jax.Array) -> jax.Array:
    """Return max |x|, float32 []."""
    return jnp.max(jnp.abs(x)).astype(jnp.float32)


def group_thresholds(weights_IO: jax.Array, groups: int) -> jax.Array:
    """Return the threshold of each output of a kernel or table [inputs, outputs]: that of its group.

    Args:
        weights_IO: float[I, O].
        groups: number of groups of outputs, a divisor of O; 1: one range.

    Returns:
        float32[O]; [] with one range.
    """
    if groups == 1:
        return largest(weights_IO)
    # Neighbouring outputs share a range: with heads before their dims, a group lies within a head.
    size = weights_IO.shape[1] // groups
    per_output = jnp.max(jnp.abs(weights_IO), axis=0).astype(jnp.float32)
    return jnp.repeat(jnp.max(per_output.reshape(groups, size), axis=1), size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def fake_weights(weights: jax.Array, bits: int, groups: int = 1, num_inputs: int = 1) -> jax.Array:
    """Fake quantisation of a kernel or table by its own largest magnitudes; the gradient goes straight through.

    Args:
        weights: float[inputs, outputs].
        bits: 2 to 8.
        groups: number of groups of outputs, each with a range of its own.
        num_inputs: number of dims that are inputs.

    Returns:
        An array like weights.
    """
    if groups == 1:
        return fake(weights, largest(weights), bits)
    weights_IO = weights.reshape(math.prod(weights.shape[:num_inputs]), -1)
    return fake(weights_IO, group_thresholds(weights_IO, groups), bits).reshape(weights.shape)


fake_weights.defvjp(
    lambda weights, bits, groups, num_inputs: (fake_weights(weights, bits, groups, num_inputs), None),
    lambda bits, groups, num_inputs, _, g: (g,),
)


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
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    range_2: jax.Array | None,
    config: QuantizationConfig,
) -> jax.Array:
    """Compute x W + b in integers: (q(x) . q(W) + q32(b)) / (s_x s_W).

    Args:
        x: float[..., inputs].
        kernel: W, float[inputs, outputs].
        bias: b, float[outputs]; None: none.
        range_2: the average of x, as `fake_activations` takes it.
        config: bits and groups.

    Returns:
        float[..., outputs] in the dtype of x. It equals the product of fake values but for the rounding of b and of
        float32 sums, which integers do not have.
    """
    x_threshold = threshold_of(x, range_2)
    kernel_threshold = group_thresholds(kernel, config.groups)
    scale = _scale(x_threshold, config.bits) * _scale(kernel_threshold, config.kernel_bits)
    x_int = quantize(x, x_threshold, config.bits).astype(jnp.int8)
    kernel_int = quantize(kernel, kernel_threshold, config.kernel_bits).astype(jnp.int8)
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    y = jax.lax.dot_general(x_int, kernel_int, contract, preferred_element_type=jnp.int32)
    if bias is not None:
        y = y + jnp.round(bias.astype(jnp.float32) * scale).astype(jnp.int32)
    return (y.astype(jnp.float32) / scale).astype(x.dtype)


def _scale(threshold: jax.Array, bits: int) -> jax.Array:
    """Return s = M / t; t of an array of zeros counts as 1, so that it stays zeros."""
    return levels(bits) / jnp.where(threshold > 0, threshold, 1.0)
