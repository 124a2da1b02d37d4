"""The cells of the Evolved Transformer (So et al. 2019, arXiv:1901.11117, figure 3), which Meena is made of.

Details are those of tensor2tensor's models/evolved_transformer.py: a norm before each part and between the
convolutions, one rate of dropout, projections of attention without biases by the config, and, before the last product
of the decoder's feed-forward network, a norm that the paper does not draw.

With n = norm(x), | as "beside, from the first channel on" and D the width:

    encoder  x += (n W_v) * sigmoid(n W_g)
             x += separable 9 (norm(relu(n W) [4 D] | relu(convolution 3 (n)) [D / 2])) [D / 2]
             x += attention(n);  x += relu(n W) [4 D] W
    decoder  x += attention with more heads(n) + attention to the encoder(n)
             x += separable 7 (norm(relu(separable 11 (n)) [2 D] | separable 7 (n) [D / 2])) [D]
             x += attention(n);  x += attention to the encoder(n);  x += norm(silu(n W) [4 D]) W
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.attention import Attention
from tlx.nn.block import RESIDUAL_DIMS, BlockInputs, BlockOutputs
from tlx.nn.cache import ConvolutionCache, LayerCache, read_states, write_states
from tlx.nn.config import BlockConfig
from tlx.nn.dropout import FEEDFORWARD_HIDDEN, dropout, fold
from tlx.nn.feedforward import FeedForward
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.nn.separable import SegmentConvolution, SeparableConvolution, causal, centred, last
from tlx.parallel.sharding import constrain

WIDE_HEADS = 16
"""Heads up to which the first self-attention of a decoder's cell has twice as many as the others."""

DECODER_KERNELS = (11, 7)
"""Positions that the causal convolutions of a decoder's cell read: the wider one of the pair, and the other two."""

_ENCODER_KERNEL = 3
_ENCODER_SEPARABLE = 9

# Folded into the keys of the parts of a cell, so that each draws bits of its own.
_PARTS = 2**18
_HIDDEN_DIMS = ("batch", "sequence", "mlp")


def empty_convolution(cfg: BlockConfig, batch: int) -> ConvolutionCache:
    """Return the empty cache of the convolutions of a decoder's layers, for rows that begin."""
    first, second = DECODER_KERNELS
    dtype = jnp.dtype(cfg.dtype)
    return ConvolutionCache(
        inputs=jnp.zeros((cfg.num_layers, batch, first - 1, cfg.width), dtype),
        hidden=jnp.zeros((cfg.num_layers, batch, second - 1, 2 * cfg.width), dtype),
    )


class EvolvedEncoderBlock(nn.Module):
    """The encoder's cell."""

    cfg: BlockConfig
    """The layer."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        width = cfg.width
        self.gate_norm = _norm(cfg, width)
        self.gate_value = _linear(cfg, width, width)
        self.gate = _linear(cfg, width, width)
        self.branch_norm = _norm(cfg, width)
        self.branch_dense = _linear(cfg, width, 4 * width)
        self.branch_convolution = SegmentConvolution(cfg, _ENCODER_KERNEL, width, width // 2)
        # Over all channels: where the convolution does not reach, the dense layer stands alone.
        self.joined_norm = _norm(cfg, 4 * width)
        self.joined_separable = SeparableConvolution(
            cfg, _ENCODER_SEPARABLE, 4 * width, width // 2, ("mlp", "embed")
        )
        self.attention_norm = _norm(cfg, width)
        self.attention = Attention(cfg)
        self.feedforward_norm = _norm(cfg, width)
        self.feedforward = FeedForward(_with_activation(cfg, "relu"))

    def __call__(self, x_BTD: jax.Array, inputs: BlockInputs) -> BlockOutputs:
        """Run the layer on the residual stream."""
        cfg = self.cfg
        keys_B = inputs.keys_B
        # One norm for value and gate, as they read the same input.
        normed = self.gate_norm(x_BTD)
        gated = self.gate_value(normed) * jax.nn.sigmoid(self.gate(normed))
        x_BTD = _add(x_BTD, _dropped(cfg, gated, keys_B, 0))
        convolved = _dropped(cfg, self._convolved(self.branch_norm(x_BTD), inputs), keys_B, 1)
        x_BTD = constrain(_beside(x_BTD, convolved), RESIDUAL_DIMS)
        normed = self.attention_norm(x_BTD)
        attended, *_ = self.attention(
            normed, normed, inputs.mask, positions_BT=inputs.positions_BT, keys_B=keys_B
        )
        x_BTD = _add(x_BTD, _dropped(cfg, attended, keys_B, 2))
        fed = self.feedforward(self.feedforward_norm(x_BTD), keys_B, FEEDFORWARD_HIDDEN)
        return BlockOutputs(_add(x_BTD, _dropped(cfg, fed, keys_B, 3)), None, None)

    def _convolved(self, x_BTD: jax.Array, inputs: BlockInputs) -> jax.Array:
        """The dense layer beside the convolution, and the separable convolution of their sum; [B, T, D / 2]."""
        cfg = self.cfg
        dense = jax.nn.relu(self.branch_dense(x_BTD))
        convolved = jax.nn.relu(self.branch_convolution(centred(x_BTD, inputs.mask, _ENCODER_KERNEL)))
        hidden = _beside(_dropped(cfg, dense, inputs.keys_B, 4), _dropped(cfg, convolved, inputs.keys_B, 5))
        hidden = self.joined_norm(constrain(hidden, _HIDDEN_DIMS))
        return self.joined_separable(centred(hidden, inputs.mask, _ENCODER_SEPARABLE))


class EvolvedDecoderBlock(nn.Module):
    """The decoder's cell, which attends to an encoder."""

    cfg: BlockConfig
    """The layer."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        width = cfg.width
        first, second = DECODER_KERNELS
        heads = dataclasses.replace(cfg.attention, num_heads=wide_heads(cfg.attention.num_heads))
        self.pair_norm = _norm(cfg, width)
        self.wide_attention = Attention(dataclasses.replace(cfg, attention=heads))
        self.pair_cross_attention = Attention(cfg, cross=True)
        self.branch_norm = _norm(cfg, width)
        self.branch_wide = SeparableConvolution(cfg, first, width, 2 * width, ("embed", "mlp"))
        self.branch_narrow = SeparableConvolution(cfg, second, width, width // 2, ("embed", "mlp"))
        self.joined_norm = _norm(cfg, 2 * width)
        self.joined_separable = SeparableConvolution(cfg, second, 2 * width, width, ("mlp", "embed"))
        self.attention_norm = _norm(cfg, width)
        self.attention = Attention(cfg)
        self.cross_norm = _norm(cfg, width)
        self.cross_attention = Attention(cfg, cross=True)
        self.feedforward_norm = _norm(cfg, width)
        self.feedforward = FeedForward(_with_activation(cfg, "silu"), normed_hidden=True)

    def __call__(self, x_BTD: jax.Array, inputs: BlockInputs) -> BlockOutputs:
        """Run the layer on the residual stream."""
        cfg = self.cfg
        keys_B = inputs.keys_B
        # Bits of its own for each of two attentions of a kind.
        pair_keys_B = fold(keys_B, _PARTS)
        # Both read the stream as it comes in, and neither the other.
        normed = self.pair_norm(x_BTD)
        attended, cache = self._attend(self.wide_attention, normed, inputs, pair_keys_B, 0)
        across = self._attend_across(self.pair_cross_attention, normed, inputs, pair_keys_B, 0)
        x_BTD = x_BTD + _dropped(cfg, attended, keys_B, 0)
        x_BTD = _add(x_BTD, _dropped(cfg, across, keys_B, 1))
        convolved, cache = self._convolved(self.branch_norm(x_BTD), inputs, cache)
        x_BTD = _add(x_BTD, _dropped(cfg, convolved, keys_B, 2))
        inputs = inputs._replace(cache=cache)
        attended, cache = self._attend(self.attention, self.attention_norm(x_BTD), inputs, keys_B, 1)
        x_BTD = _add(x_BTD, _dropped(cfg, attended, keys_B, 3))
        across = self._attend_across(self.cross_attention, self.cross_norm(x_BTD), inputs, keys_B, 1)
        x_BTD = _add(x_BTD, _dropped(cfg, across, keys_B, 4))
        fed = self.feedforward(self.feedforward_norm(x_BTD), keys_B, FEEDFORWARD_HIDDEN)
        return BlockOutputs(_add(x_BTD, _dropped(cfg, fed, keys_B, 5)), cache, None)

    def encoded_keys_values(self, encoded_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Compute keys and values of the encoder's output, [B, S, 2 G, H]: heads of the first, then of the second."""
        first = self.pair_cross_attention.keys_values(encoded_BSD, None)
        second = self.cross_attention.keys_values(encoded_BSD, None)
        key, value = (jnp.concatenate(pair, axis=2) for pair in zip(first, second, strict=True))
        return key, value

    def _attend(
        self, attention: Attention, x_BTD: jax.Array, inputs: BlockInputs, keys_B: jax.Array | None, part: int
    ) -> tuple[jax.Array, LayerCache | None]:
        """Self-attention number `part` of the cell, whose keys and values lie at 2 l + part in the cache."""
        cache = inputs.cache
        if cache is not None:
            # The caches of both attentions lie in one array, which the loop over layers updates in place.
            cache = cache._replace(layer=2 * cache.layer + part)
        attended, cache, _ = attention(
            x_BTD, x_BTD, inputs.mask, positions_BT=inputs.positions_BT, keys_B=keys_B, cache=cache
        )
        if cache is not None:
            assert inputs.cache is not None
            # Back to the layer's own index, by which the convolutions' cache is read.
            cache = cache._replace(layer=inputs.cache.layer)
        return attended, cache

    def _attend_across(
        self, attention: Attention, x_BTD: jax.Array, inputs: BlockInputs, keys_B: jax.Array | None, part: int
    ) -> jax.Array:
        """Attention number `part` to the encoder's output."""
        assert inputs.cross_mask is not None
        if inputs.encoded_keys_values is not None:
            key, value = (jnp.split(both, 2, axis=2)[part] for both in inputs.encoded_keys_values)
            return attention.attend_to_encoded(x_BTD, key, value, inputs.cross_mask, keys_B)
        assert inputs.encoded_BSD is not None
        return attention(x_BTD, inputs.encoded_BSD, inputs.cross_mask, keys_B=keys_B).hidden

    def _convolved(
        self, x_BTD: jax.Array, inputs: BlockInputs, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        """The two separable convolutions beside each other, and that of their sum."""
        cfg = self.cfg
        first, second = DECODER_KERNELS
        inputs_before, hidden_before = (None, None) if cache is None else read_states(cache)
        # The narrower convolution reads the end of the same span.
        span = causal(x_BTD, inputs.mask, inputs_before, first)
        wide = jax.nn.relu(self.branch_wide(span))
        hidden = _beside(
            _dropped(cfg, wide, inputs.keys_B, 6),
            _dropped(cfg, self.branch_narrow(span), inputs.keys_B, 7),
        )
        hidden = self.joined_norm(constrain(hidden, _HIDDEN_DIMS))
        hidden_span = causal(hidden, inputs.mask, hidden_before, second)
        if cache is not None:
            # Of the span and not of x: fewer tokens may be new than the kernels reach back.
            cache = write_states(cache, ConvolutionCache(last(span, first), last(hidden_span, second)))
        return self.joined_separable(hidden_span), cache


def wide_heads(num_heads: int) -> int:
    """Return the heads of the first self-attention of a decoder's cell."""
    return max(num_heads, min(2 * num_heads, WIDE_HEADS))


def _with_activation(cfg: BlockConfig, activation: str) -> BlockConfig:
    """The layer with the cell's own activation in its feed-forward network, and its one rate of dropout."""
    # tensor2tensor drops hidden units at the rate of the residual connections.
    network = dataclasses.replace(cfg.feedforward, activation=activation, dropout=cfg.dropout)
    return dataclasses.replace(cfg, feedforward=network)


def _linear(cfg: BlockConfig, inputs: int, outputs: int) -> Linear:
    """A dense layer."""
    return Linear(
        inputs=(inputs,),
        outputs=(outputs,),
        names=("embed", "mlp"),
        std=cfg.std(inputs),
        bias=True,
        dtype=cfg.dtype,
        param_dtype=cfg.param_dtype,
        quantization=cfg.quantization,
    )


def _norm(cfg: BlockConfig, width: int) -> Norm:
    return Norm(cfg.norm, width, cfg.param_dtype)


def _dropped(cfg: BlockConfig, x: jax.Array, keys_B: jax.Array | None, part: int) -> jax.Array:
    """Dropout of part number `part` of a cell."""
    return dropout(x, cfg.dropout, keys_B, _PARTS + 1 + part)


def _add(x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
    """The residual connection."""
    return constrain(x_BTD + y_BTD, RESIDUAL_DIMS)


def _beside(wide: jax.Array, narrow: jax.Array) -> jax.Array:
    """Add a narrow array to the first channels of a wide one."""
    missing = wide.shape[-1] - narrow.shape[-1]
    return wide + jnp.pad(narrow, ((0, 0), (0, 0), (0, missing)))
