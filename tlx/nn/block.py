"""One layer: attention, cross-attention and feed-forward around a residual stream."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tlx.nn.adapter_modules import BottleneckAdapter
from tlx.nn.attention import Attention
from tlx.nn.cache import LayerCache
from tlx.nn.config import BlockConfig
from tlx.nn.dropout import dropout
from tlx.nn.feedforward import Experts, FeedForward, Routing
from tlx.nn.mask import Mask
from tlx.nn.norm import Norm
from tlx.parallel.sharding import constrain

RESIDUAL_DIMS = ("batch", "sequence", "activation_embed")

# Dropout sites of a layer.
ATTENTION, CROSS, FEEDFORWARD, PROBABILITIES, CROSS_PROBABILITIES, HIDDEN, QUERY_STREAM = range(7)


class Block(nn.Module):
    """Pre-norm (GPT-2), post-norm (the original Transformer, BERT), parallel (GPT-NeoX) or sandwich.

    sandwich: a part has norms before it and behind it, both inside the residual (Gemma 2).
    Without `normed`, attention reads the stream as it is (ModernBERT's first layer).
    """

    cfg: BlockConfig
    normed: bool = True

    def setup(self):
        cfg = self.cfg
        self.attention = Attention(cfg)
        if self.normed:
            self.attention_norm = Norm(cfg.norm, cfg.width, cfg.param_dtype)
        if cfg.cross:
            self.cross_attention = Attention(cfg, cross=True)
            self.cross_norm = Norm(cfg.norm, cfg.width, cfg.param_dtype)
        self.feedforward = Experts(cfg) if cfg.feedforward.num_experts else FeedForward(cfg)
        self.feedforward_norm = Norm(cfg.norm, cfg.width, cfg.param_dtype)
        if cfg.adapters.bottleneck_dim:
            self.adapter = BottleneckAdapter(cfg)
            if cfg.adapters.bottleneck_after_attention:
                self.attention_adapter = BottleneckAdapter(cfg)
        if cfg.block_layout == "sandwich":
            self.attention_post_norm = Norm(cfg.norm, cfg.width, cfg.param_dtype)
            self.feedforward_post_norm = Norm(cfg.norm, cfg.width, cfg.param_dtype)

    def __call__(
        self,
        x_BTD: jax.Array,
        mask: Mask,
        *,
        bias: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        different_BTS: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        memory_BMD: jax.Array | None = None,
        slot: LayerCache | None = None,
        encoded_BSD: jax.Array | None = None,
        encoded_keys_values: tuple[jax.Array, jax.Array] | None = None,
        cross_mask: Mask | None = None,
        distances_RD: jax.Array | None = None,
        source_BTD: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerCache | None, Routing | None]:
        """x_BTD after the layer, its cache, and what its experts were chosen for.

        `memory` are the layer's earlier inputs, which x may attend to; `source` what it does in place of x.
        """
        cfg, routing = self.cfg, None

        def attend(x: jax.Array) -> jax.Array:
            nonlocal slot
            y, slot = self.attention(
                x,
                self._source(x, memory_BMD, source_BTD),
                mask,
                bias=bias,
                positions_BT=positions_BT,
                different_BTS=different_BTS,
                keys_B=keys_B,
                site=PROBABILITIES,
                slot=slot,
                distances_RD=distances_RD,
            )
            if cfg.block_layout == "sandwich":
                y = self.attention_post_norm(y)
            return self._adapted(dropout(y, cfg.dropout, keys_B, ATTENTION))

        def attend_across(x: jax.Array) -> jax.Array:
            y, _ = self.cross_attention(
                x, encoded_BSD, cross_mask, keys_B=keys_B, site=CROSS_PROBABILITIES, given=encoded_keys_values
            )
            return dropout(y, cfg.dropout, keys_B, CROSS)

        def feed(x: jax.Array) -> jax.Array:
            nonlocal routing
            y, routing = self._feed(x, keys_B)
            return y

        if cfg.block_layout == "parallel":
            mixed = self._scaled(attend(self.attention_norm(x_BTD)) + feed(self.feedforward_norm(x_BTD)))
            return constrain(x_BTD + mixed, RESIDUAL_DIMS), slot, routing
        x_BTD = self._residual(x_BTD, attend, self.attention_norm if self.normed else lambda x: x)
        if cfg.cross:
            x_BTD = self._residual(x_BTD, attend_across, self.cross_norm)
        x_BTD = self._residual(x_BTD, feed, self.feedforward_norm)
        return x_BTD, slot, routing

    def content_logits(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """The attention logits of the layer that reads x, float32[B, N, T, T]: see Attention."""
        return self.attention.content_logits(self._read(x_BTD), positions_BT)

    def encoded_keys_values(self, encoded_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What cross-attention reads of the encoder's output, once for a whole generation."""
        return self.cross_attention.keys_values(encoded_BSD, None)

    def two_streams(
        self,
        h_BTD: jax.Array,
        g_BPD: jax.Array,
        memory_BMD: jax.Array,
        places_BP: jax.Array,
        content_mask: Mask,
        query_mask: Mask,
        content_different_BTS: jax.Array | None,
        query_different_BPS: jax.Array | None,
        keys_B: jax.Array | None,
        backwards_B: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """XLNet's two streams (Yang et al. 2019, 2.6): both attend to memory and content h, post-norm.

        The query stream g stands at P places of the row and does not see the content of its own.
        `backwards` is 1 for rows in reverse.
        """
        cfg, attention = self.cfg, self.attention
        key, value = attention.keys_values(jnp.concatenate([self._memory(memory_BMD, h_BTD), h_BTD], 1), None)
        num_keys, length = key.shape[1], h_BTD.shape[1]

        query = attention.queries(h_BTD, None)
        query, bias = attention.relative_terms(
            query, num_keys, content_mask, content_different_BTS, backwards_B=backwards_B
        )
        h_attended = attention.attend(query, key, value, content_mask, bias, keys_B, PROBABILITIES)
        h_attended = self._adapted(dropout(h_attended, cfg.dropout, keys_B, ATTENTION))
        query = attention.queries(g_BPD, None)
        query, bias = attention.relative_terms(
            query, num_keys, query_mask, query_different_BPS, places_BP, length, backwards_B
        )
        g_attended = attention.attend(
            query, key, value, query_mask, bias, keys_B, PROBABILITIES + QUERY_STREAM + 1
        )
        g_attended = self._adapted(dropout(g_attended, cfg.dropout, keys_B, QUERY_STREAM))

        def finish(x: jax.Array, attended: jax.Array, offset: int) -> jax.Array:
            x = self.attention_norm(x + attended)
            return constrain(self.feedforward_norm(x + self._feed(x, keys_B, offset)[0]), RESIDUAL_DIMS)

        return finish(h_BTD, h_attended, 0), finish(g_BPD, g_attended, QUERY_STREAM + 1)

    def _residual(self, x: jax.Array, part, norm) -> jax.Array:
        y = norm(x + part(x)) if self.cfg.block_layout == "post" else x + self._scaled(part(norm(x)))
        return constrain(y, RESIDUAL_DIMS)

    def _scaled(self, y: jax.Array) -> jax.Array:
        return y if self.cfg.layers_scale == 1.0 else y / self.cfg.layers_scale

    def _feed(
        self, x: jax.Array, keys_B: jax.Array | None, offset: int = 0
    ) -> tuple[jax.Array, Routing | None]:
        y, routing = self.feedforward(x, keys_B, HIDDEN + offset), None
        if self.cfg.feedforward.num_experts:
            y, routing = y
        if self.cfg.block_layout == "sandwich":
            y = self.feedforward_post_norm(y)
        y = dropout(checkpoint_name(y, "fed"), self.cfg.dropout, keys_B, FEEDFORWARD + offset)
        return self.adapter(y) if self.cfg.adapters.bottleneck_dim else y, routing

    def _adapted(self, attended: jax.Array) -> jax.Array:
        adapters = self.cfg.adapters
        return (
            self.attention_adapter(attended)
            if adapters.bottleneck_dim and adapters.bottleneck_after_attention
            else attended
        )

    def _source(self, x: jax.Array, memory_BMD: jax.Array | None, source_BTD: jax.Array | None) -> jax.Array:
        source = x if source_BTD is None else self._read(source_BTD)
        if memory_BMD is None:
            return source
        return jnp.concatenate([self._memory(memory_BMD, x), source], axis=1)

    def _memory(self, memory_BMD: jax.Array, like: jax.Array) -> jax.Array:
        return self._read(jax.lax.stop_gradient(memory_BMD).astype(like.dtype))

    def _read(self, inputs: jax.Array) -> jax.Array:
        # A pre-norm layer attends to normalised inputs: what else it reads of the stream is normalised too.
        return self.attention_norm(inputs) if self.cfg.block_layout != "post" else inputs
