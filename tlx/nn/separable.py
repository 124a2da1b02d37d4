"""Convolutions over the positions of a segment, causal or not: whole, and depthwise with a product behind.

A position reads positions of its own segment only: packed documents and padding count as zeros. Of the positions that
a causal one reads, decoding keeps the last ones (cache.ConvolutionCache).

Shapes: U positions that T outputs read, C and O input and output channels, W positions kept from before.
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

    x_BUC: jax.Array
    """float[B, U, C]."""

    segments_BU: jax.Array
    """int[B, U], segments of what is read."""

    segments_BT: jax.Array
    """int[B, T], segments of the outputs."""


def centred(x_BTC: jax.Array, mask: Mask, size: int) -> Span:
    """Return what a kernel of odd `size` reads of whole rows, as many positions on both sides.

    Args:
        x_BTC: the row.
        mask: self-attention's, for the segments.
        size: positions that the kernel reads.

    Returns:
        The span of U = T + size - 1 positions.
    """
    assert mask.query_segments is not None
    half = size // 2
    segments_BU = jnp.pad(mask.query_segments, ((0, 0), (half, half)), constant_values=_NO_SEGMENT)
    return Span(jnp.pad(x_BTC, ((0, 0), (half, half), (0, 0))), segments_BU, mask.query_segments)


def causal(x_BTC: jax.Array, mask: Mask, before_BWC: jax.Array | None, size: int) -> Span:
    """Return what a kernel of `size` reads of T positions and the `size` - 1 before them.

    Args:
        x_BTC: the positions.
        mask: self-attention's, for the segments of keys and the index of the first query among them.
        before_BWC: W = size - 1 positions before them; None: the row begins with x.
        size: positions that the kernel reads.

    Returns:
        The span of U = T + size - 1 positions.
    """
    assert mask.query_segments is not None and mask.key_segments is not None
    width = size - 1
    batch, length, channels = x_BTC.shape
    if before_BWC is None:
        before_BWC = jnp.zeros((batch, width, channels), x_BTC.dtype)
    keys = jnp.pad(mask.key_segments, ((0, 0), (width, 0)), constant_values=_NO_SEGMENT)
    segments_BU = jax.lax.dynamic_slice_in_dim(keys, mask.query_start, width + length, axis=1)
    x_BUC = jnp.concatenate([before_BWC.astype(x_BTC.dtype), x_BTC], axis=1)
    return Span(x_BUC, segments_BU, mask.query_segments)


def last(span: Span, size: int) -> jax.Array:
    """Return the last size - 1 positions of a causal span, [B, W, C], for the cache."""
    return span.x_BUC[:, span.x_BUC.shape[1] - size + 1 :]


def shifted(span: Span, size: int) -> list[jax.Array]:
    """Return what each entry of a kernel reads, `size` arrays [B, T, C], from the earliest position on.

    A kernel that is shorter than the span reads its last positions.
    """
    length = span.segments_BT.shape[1]
    first = span.x_BUC.shape[1] - length - size + 1
    parts = []
    for start in range(first, first + size):
        is_same = span.segments_BU[:, start : start + length] == span.segments_BT
        parts.append(jnp.where(is_same[..., None], span.x_BUC[:, start : start + length], 0))
    return parts


class SegmentConvolution(nn.Module):
    """y[B, T, O] = sum_i x[B, t + i, C] W[i, C, O] + b[O]."""

    cfg: BlockConfig
    """The layer."""

    size: int
    """Positions that each output reads."""

    inputs: int
    """Input channels C."""

    outputs: int
    """Output channels O."""

    @nn.compact
    def __call__(self, span: Span) -> jax.Array:
        """Convolve a span."""
        stacked_BTKC = jnp.stack(shifted(span, self.size), axis=2)
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
        )(stacked_BTKC)


class SeparableConvolution(nn.Module):
    """y = (sum_i x[B, t + i, C] f[i, C]) W[C, O] + b[O]: a filter of its own for each channel, then a product."""

    cfg: BlockConfig
    """The layer."""

    size: int
    """Positions that each output reads."""

    inputs: int
    """Input channels C."""

    outputs: int
    """Output channels O."""

    names: tuple[str, str]
    """Logical names of the dims of W."""

    @nn.compact
    def __call__(self, span: Span) -> jax.Array:
        """Convolve a span."""
        cfg = self.cfg
        init = logical(nn.initializers.normal(cfg.std(self.size)), (None, "norm"))
        filters_KC = self.param("filter", init, (self.size, self.inputs), jnp.dtype(cfg.param_dtype))
        depthwise_BTC = _depthwise(span, filters_KC)
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
        )(depthwise_BTC)


@jax.checkpoint
def _depthwise(span: Span, filters_KC: jax.Array) -> jax.Array:
    """Sum the shifted inputs times their filters; rematerialised, as the gradient would keep every shifted input."""
    size = filters_KC.shape[0]
    total_BTC = jnp.zeros((), jnp.float32)
    for x_BTC, filter_C in zip(shifted(span, size), filters_KC, strict=True):
        total_BTC = total_BTC + x_BTC.astype(jnp.float32) * filter_C.astype(jnp.float32)
    return total_BTC.astype(span.x_BUC.dtype)
