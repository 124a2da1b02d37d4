"""Convolutions over the positions of a segment, causal or not: whole, and depthwise with a product behind.

A position reads positions of its own segment only: packed documents and padding count as zeros. Of the positions that
a causal one reads, decoding keeps the last ones (cache.ConvolutionCache).

Shapes: U positions that T outputs read, I and O input and output channels, J entries of a kernel, W positions kept
from before.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.config import BlockConfig
from tlx.nn.linear import Linear
from tlx.nn.mask import Mask
from tlx.parallel.sharding import logical

# No token's segment.
_NO_SEGMENT = -1


class Span(NamedTuple):
    """What a convolution reads: T positions, with those around them that the widest kernel reaches."""

    x_BUI: jax.Array
    """float[B, U, I]."""

    segments_BU: jax.Array
    """int[B, U], segments of what is read."""

    segments_BT: jax.Array
    """int[B, T], segments of the outputs."""


def centred(x_BTI: jax.Array, mask: Mask, size: int) -> Span:
    """Return what a kernel of odd `size` reads of whole rows, as many positions on both sides.

    Args:
        x_BTI: the row.
        mask: self-attention's, for the segments.
        size: positions that the kernel reads.

    Returns:
        The span of U = T + size - 1 positions.
    """
    assert mask.query_segments is not None
    half = size // 2
    segments_BU = jnp.pad(mask.query_segments, ((0, 0), (half, half)), constant_values=_NO_SEGMENT)
    return Span(jnp.pad(x_BTI, ((0, 0), (half, half), (0, 0))), segments_BU, mask.query_segments)


def causal(x_BTI: jax.Array, mask: Mask, before_BWI: jax.Array | None, size: int) -> Span:
    """Return what a kernel of `size` reads of T positions and the `size` - 1 before them.

    Args:
        x_BTI: the positions.
        mask: self-attention's, for the segments of keys and the index of the first query among them.
        before_BWI: W = size - 1 positions before them; None: the row begins with x.
        size: positions that the kernel reads.

    Returns:
        The span of U = T + size - 1 positions.
    """
    assert mask.query_segments is not None and mask.key_segments is not None
    width = size - 1
    batch, length, channels = x_BTI.shape
    nothing = jnp.zeros((batch, width, channels), x_BTI.dtype)
    before_BWI = nothing if before_BWI is None else before_BWI.astype(x_BTI.dtype)
    # The entry of a cache before the first token is no token's, as are positions before a row.
    keys = jnp.pad(mask.key_segments, ((0, 0), (width, 0)), constant_values=_NO_SEGMENT)
    segments_BU = jax.lax.dynamic_slice_in_dim(keys, mask.query_start, width + length, axis=1)
    x_BUI = jnp.concatenate([before_BWI, x_BTI], axis=1)
    return Span(x_BUI, segments_BU, mask.query_segments)


def last(span: Span, size: int) -> jax.Array:
    """Return the last size - 1 positions of a causal span, [B, W, I], for the cache."""
    return span.x_BUI[:, span.x_BUI.shape[1] - size + 1 :]


def shifted(span: Span, size: int) -> list[jax.Array]:
    """Return what each entry of a kernel reads, `size` arrays [B, T, I], from the earliest position on.

    A kernel that is shorter than the span reads its last positions.
    """
    length = span.segments_BT.shape[1]
    first = span.x_BUI.shape[1] - length - size + 1
    # A kernel shorter than the widest one of its span begins later.
    parts = []
    for start in range(first, first + size):
        is_same = span.segments_BU[:, start : start + length] == span.segments_BT
        parts.append(jnp.where(is_same[..., None], span.x_BUI[:, start : start + length], 0))
    return parts


class SegmentConvolution(nn.Module):
    """y[B, T, O] = sum_i x[B, t + i, I] W[i, I, O] + b[O]."""

    cfg: BlockConfig
    """The layer."""

    size: int
    """Positions that each output reads."""

    inputs: int
    """Input channels I."""

    outputs: int
    """Output channels O."""

    @nn.compact
    def __call__(self, span: Span) -> jax.Array:
        """Convolve a span."""
        # One product over positions and channels, in place of one for each position.
        stacked_BTJI = jnp.stack(shifted(span, self.size), axis=2)
        return Linear(
            inputs=(self.size, self.inputs),
            outputs=(self.outputs,),
            names=(None, "embed", "mlp"),
            std=self.cfg.std(self.size * self.inputs),
            bias=True,
            dtype=self.cfg.dtype,
            param_dtype=self.cfg.param_dtype,
            quantization=self.cfg.quantization,
            name="kernel",
        )(stacked_BTJI)


class SeparableConvolution(nn.Module):
    """y = (sum_i x[B, t + i, I] f[i, I]) W[I, O] + b[O]: a filter of its own for each channel, then a product."""

    cfg: BlockConfig
    """The layer."""

    size: int
    """Positions that each output reads."""

    inputs: int
    """Input channels I."""

    outputs: int
    """Output channels O."""

    names: tuple[str, str]
    """Logical names of the dims of W."""

    @nn.compact
    def __call__(self, span: Span) -> jax.Array:
        """Convolve a span."""
        cfg = self.cfg
        init = logical(nn.initializers.normal(cfg.std(self.size)), (None, "norm"))
        filters_JI = self.param("filter", init, (self.size, self.inputs), jnp.dtype(cfg.param_dtype))
        depthwise_BTI = _depthwise(span, filters_JI)
        return Linear(
            inputs=(self.inputs,),
            outputs=(self.outputs,),
            names=self.names,
            std=cfg.std(self.inputs),
            bias=True,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            quantization=cfg.quantization,
            name="pointwise",
        )(depthwise_BTI)


@jax.checkpoint
def _depthwise(span: Span, filters_JI: jax.Array) -> jax.Array:
    """Sum the shifted inputs times their filters; rematerialised, as the gradient would keep every shifted input."""
    size = filters_JI.shape[0]
    # In float32: a sum of up to eleven products in bfloat16 would lose two bits.
    total_BTI = jnp.zeros((), jnp.float32)
    for x_BTI, filter_I in zip(shifted(span, size), filters_JI, strict=True):
        total_BTI = total_BTI + x_BTI.astype(jnp.float32) * filter_I.astype(jnp.float32)
    return total_BTI.astype(span.x_BUI.dtype)
