"""One layer: attention or a state space, cross-attention and a feed-forward network around a residual stream.

Shapes: U size of the per-layer inputs.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tlx.nn import cache as caches
from tlx.nn.adapter_modules import BottleneckAdapter
from tlx.nn.attention import Attended, Attention, KeysValues
from tlx.nn.cache import LayerCache
from tlx.nn.config import BlockConfig
from tlx.nn.dropout import (
    ATTENTION_OUTPUT,
    ATTENTION_PROBABILITIES,
    CROSS_ATTENTION_OUTPUT,
    FEEDFORWARD_HIDDEN,
    FEEDFORWARD_OUTPUT,
    QUERY_STREAM_OFFSET,
    QUERY_STREAM_OUTPUT,
    dropout,
)
from tlx.nn.feedforward import Experts, FeedForward, Routing
from tlx.nn.mask import Mask
from tlx.nn.norm import Norm
from tlx.nn.per_layer import PerLayerGate
from tlx.nn.state_space import StateSpace
from tlx.parallel.sharding import constrain, logical

RESIDUAL_DIMS = ("batch", "sequence", "activation_embed")

StoredKeys = Mapping[str, KeysValues]
"""Keys and values of the last layer of each kind that has some, by BlockConfig.shared_kind."""

NO_KEYS: StoredKeys = {}
"""Those of a stack whose layers share none, never changed."""


class BlockInputs(NamedTuple):
    """Inputs of a layer besides the residual stream."""

    mask: Mask
    """Which keys each query of self-attention may attend to."""

    bias: jax.Array | None = None
    """float[1 or devices, N, T, S], a stack's shared bias by relative position; None: none."""

    positions_BT: jax.Array | None = None
    """int[B, T], positions inside the documents, for rotary embeddings."""

    keys_B: jax.Array | None = None
    """One PRNG key for each row, folded with the layer's index; None: no dropout."""

    memory_BMD: jax.Array | None = None
    """Inputs of this layer in earlier windows, to which x may attend (Transformer-XL); None: none."""

    source_BTD: jax.Array | None = None
    """Sequence that x attends to in place of itself (DeBERTa's mask decoder); None: x."""

    encoded_BSD: jax.Array | None = None
    """The encoder's output, for cross-attention."""

    encoded_keys_values: tuple[jax.Array, jax.Array] | None = None
    """Cross-attention's keys and values [B, S, G, H] computed before, in place of `encoded_BSD`."""

    cross_mask: Mask | None = None
    """Which of the encoder's tokens each query may attend to."""

    cache: LayerCache | None = None
    """Cache of self-attention's keys and values while decoding; None: no cache."""

    distances_RD: jax.Array | None = None
    """The stack's table of distances of disentangled attention."""

    stored_keys: StoredKeys = NO_KEYS
    """Keys and values of layers before, where layers share them; while decoding they stand in the cache."""

    per_layer_BTU: jax.Array | None = None
    """float[B, T, U]: the layer's per-layer inputs (nn/per_layer.py); None: it has none."""


class BlockOutputs(NamedTuple):
    """Outputs of a layer."""

    hidden: jax.Array
    """float[B, T, D], the residual stream after the layer."""

    cache: LayerCache | None
    """The cache with the new keys and values."""

    routing: Routing | None
    """Which experts the tokens chose; None without experts."""

    stored_keys: StoredKeys = NO_KEYS
    """Those of the inputs, with the layer's own keys and values where later layers may attend to them."""


class Stream(NamedTuple):
    """One of XLNet's two streams at a layer."""

    hidden: jax.Array
    """float[B, T, D] of all positions (content), or [B, P, D] of the predicted ones (query)."""

    mask: Mask
    """Which of the memory and the content each position may attend to."""

    different_BTS: jax.Array | None
    """bool[B, T or P, M + T], whether query and key are of different types; None: no segment term."""


class Block(nn.Module):
    """A layer in one of six layouts, by `cfg.block_layout`.

    "pre": x + part(norm(x)) (GPT-2). "post": norm(x + part(x)) (the original Transformer, BERT). "parallel":
    x + attention(norm(x)) + feedforward(norm(x)) (GPT-NeoX). "parallel_shared": the same with one norm for both
    (GPT-J). "sandwich": x + norm(part(norm(x))) (Gemma 2). "output": x + norm(part(x)) (OLMo 2).
    """

    cfg: BlockConfig
    """The layer."""

    has_attention_norm: bool = True
    """Whether attention reads norm(x); False: x as it is (ModernBERT's first layer)."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        if "attention" in cfg.mixers:
            for name, layer in cfg.attentions.items():
                setattr(self, name, Attention(layer))
        if "state_space" in cfg.mixers:
            self.state_space = StateSpace(cfg)
        if self.has_attention_norm:
            self.attention_norm = self._norm()
        if cfg.cross:
            self.cross_attention = Attention(cfg, cross=True)
            self.cross_norm = self._norm()
        if not cfg.feedforward.absent:
            for name, layer in cfg.feedforwards.items():
                setattr(self, name, Experts(layer) if cfg.feedforward.num_experts else FeedForward(layer))
            if cfg.block_layout != "parallel_shared":
                self.feedforward_norm = self._norm()
        if cfg.adapters.bottleneck_dim:
            self.adapter = BottleneckAdapter(cfg)
            if cfg.adapters.bottleneck_after_attention:
                self.attention_adapter = BottleneckAdapter(cfg)
        if cfg.block_layout == "sandwich":
            self.attention_post_norm = self._norm()
            self.feedforward_post_norm = self._norm()
            if cfg.cross:
                self.cross_post_norm = self._norm()
        if cfg.per_layer_dim:
            self.per_layer = PerLayerGate(cfg)
        if cfg.layer_scalars:
            ones = logical(nn.initializers.ones_init(), (None,))
            self.layer_scalar = self.param("layer_scalar", ones, (1,), jnp.dtype(cfg.param_dtype))

    def __call__(self, x_BTD: jax.Array, inputs: BlockInputs) -> BlockOutputs:
        """Run the layer on the residual stream."""
        cfg = self.cfg
        if cfg.block_layout in ("parallel", "parallel_shared"):
            # Both parts read the stream before the layer, through one norm or each through its own.
            normed = self.attention_norm(x_BTD)
            attended, cache, _ = self._attend(normed, inputs)
            if cfg.block_layout == "parallel":
                normed = self.feedforward_norm(x_BTD)
            fed, routing = self._feed(normed, inputs.keys_B)
            x_BTD = constrain(x_BTD + self._scaled(attended + fed), RESIDUAL_DIMS)
            return BlockOutputs(x_BTD, cache, routing)
        is_post = cfg.block_layout == "post"
        y_BTD, cache, stored_keys = self._attend(self._as_read(x_BTD), inputs)
        x_BTD = self._add(x_BTD, y_BTD)
        if is_post:
            x_BTD = self._attention_norm(x_BTD)
        x_BTD = constrain(x_BTD, RESIDUAL_DIMS)
        if cfg.cross:
            y_BTD = self._attend_across(x_BTD if is_post else self.cross_norm(x_BTD), inputs)
            x_BTD = self._add(x_BTD, y_BTD)
            if is_post:
                x_BTD = self.cross_norm(x_BTD)
            x_BTD = constrain(x_BTD, RESIDUAL_DIMS)
        if cfg.feedforward.absent:
            return BlockOutputs(x_BTD, cache, None)
        is_read_raw = cfg.block_layout in ("post", "output")
        y_BTD, routing = self._feed(x_BTD if is_read_raw else self.feedforward_norm(x_BTD), inputs.keys_B)
        x_BTD = self._add(x_BTD, y_BTD)
        if is_post:
            x_BTD = self.feedforward_norm(x_BTD)
        if cfg.per_layer_dim:
            assert inputs.per_layer_BTU is not None
            x_BTD = x_BTD + self._scaled(self.per_layer(x_BTD, inputs.per_layer_BTU))
        if cfg.layer_scalars:
            # Of the checkpoint, not learned: the class of transformers has it as a buffer.
            x_BTD = x_BTD * jax.lax.stop_gradient(self.layer_scalar).astype(x_BTD.dtype)
        return BlockOutputs(constrain(x_BTD, RESIDUAL_DIMS), cache, routing, stored_keys)

    def content_logits(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Compute the attention logits of the layer whose input is x, float32[B, N, T, T]; see Attention."""
        return self.attention.content_logits(self._as_read(x_BTD), positions_BT)

    def encoded_keys_values(self, encoded_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Compute cross-attention's keys and values [B, S, G, H] of the encoder's output."""
        return self.cross_attention.keys_values(encoded_BSD, None)

    def two_streams(
        self,
        content: Stream,
        query: Stream,
        memory_BMD: jax.Array,
        places_BP: jax.Array,
        keys_B: jax.Array | None,
        backwards_B: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Run XLNet's two streams (Yang et al. 2019, 2.6): both attend to memory and content, post-norm.

        Args:
            content: the stream in which each position has seen its own token.
            query: the stream of predicted positions, which have not seen theirs.
            memory_BMD: inputs of this layer in earlier windows.
            places_BP: int[B, P], the positions of the query stream in the row.
            keys_B: one PRNG key for each row, folded with the layer's index; None: no dropout.
            backwards_B: int[B], 1 for rows whose text is in reverse; None: no row.

        Returns:
            (content [B, T, D], query [B, P, D]) after the layer.
        """
        h_BTD = content.hidden
        g_BPD = query.hidden
        length = h_BTD.shape[1]
        # Both streams read the same keys and values: those of the content and the memory.
        source = jnp.concatenate([self._memory(memory_BMD, h_BTD), h_BTD], 1)
        key_value = self.attention.keys_values(source, None, keys_B)
        h_attended = self._attend_stream(content, key_value, None, length, keys_B, backwards_B)
        g_attended = self._attend_stream(query, key_value, places_BP, length, keys_B, backwards_B)
        h_BTD = self._finish_stream(h_BTD, h_attended, keys_B, 0)
        return h_BTD, self._finish_stream(g_BPD, g_attended, keys_B, QUERY_STREAM_OFFSET)

    def _attend_stream(
        self,
        stream: Stream,
        key_value: tuple[jax.Array, jax.Array],
        places_BP: jax.Array | None,
        length: int,
        keys_B: jax.Array | None,
        backwards_B: jax.Array | None,
    ) -> jax.Array:
        """Self-attention of one stream; `places_BP` None is the content stream."""
        attention = self.attention
        key, value = key_value
        is_content = places_BP is None
        query, bias = attention.relative_terms(
            attention.queries(stream.hidden, None, keys_B),
            key.shape[1],
            stream.mask,
            stream.different_BTS,
            places_BP,
            0 if is_content else length,
            backwards_B,
        )
        # The streams draw their dropout bits apart, although they share parameters and keys.
        probabilities_site = ATTENTION_PROBABILITIES + (0 if is_content else QUERY_STREAM_OFFSET)
        output_site = ATTENTION_OUTPUT if is_content else QUERY_STREAM_OUTPUT
        attended = attention.attend(query, key, value, stream.mask, bias, keys_B, probabilities_site)
        return self._adapted(dropout(attended, self.cfg.dropout, keys_B, output_site))

    def _finish_stream(
        self, x: jax.Array, attended: jax.Array, keys_B: jax.Array | None, site_offset: int
    ) -> jax.Array:
        """Residual connections, norms and feed-forward network of one stream, post-norm."""
        x = self.attention_norm(x + attended)
        fed, _ = self._feed(x, keys_B, site_offset)
        return constrain(self.feedforward_norm(x + fed), RESIDUAL_DIMS)

    def _norm(self) -> Norm:
        return Norm(self.cfg.norm, self.cfg.width, self.cfg.param_dtype)

    def _attention_norm(self, x: jax.Array) -> jax.Array:
        return self.attention_norm(x) if self.has_attention_norm else x

    def _attend(self, x: jax.Array, inputs: BlockInputs) -> tuple[jax.Array, LayerCache | None, StoredKeys]:
        """The layer's mixer on x, which is normalised already where the layout says so."""
        y = x
        cache = inputs.cache
        stored_keys = inputs.stored_keys
        # A layer has one; the parameters of all layers are initialised as those of a layer that has every kind.
        if "state_space" in self.cfg.mixers:
            assert inputs.mask.query_segments is not None
            y, cache = self.state_space(x, inputs.mask.query_segments, cache)
        if "attention" in self.cfg.mixers:
            for name, layer in self.cfg.attentions.items():
                layer_inputs = inputs._replace(stored_keys=stored_keys)
                y, cache, keys_values = self._attended(name, layer, x, layer_inputs)
                # With a cache they are read from there, where those of all tokens stand.
                if layer.keys == "stored" and cache is None:
                    stored_keys = {**stored_keys, layer.shared_kind: keys_values}
        if self.cfg.block_layout == "sandwich":
            # Before dropout and residual connection, as in Gemma 2.
            y = self.attention_post_norm(y)
        elif self.cfg.block_layout == "output":
            y = self.attention_norm(y)
        y = self._adapted(dropout(y, self.cfg.dropout, inputs.keys_B, ATTENTION_OUTPUT))
        return y, cache, stored_keys

    def _attended(self, name: str, layer: BlockConfig, x: jax.Array, inputs: BlockInputs) -> Attended:
        """Self-attention `name` of x."""
        cache = inputs.cache
        if layer.keys != "shared":
            source = self._source(x, inputs)
        elif cache is None:
            source = inputs.stored_keys[layer.shared_kind]
        else:
            source = KeysValues(*caches.read(cache, layer.num_kv_heads, layer.head_dim))
        attention: Attention = getattr(self, name)
        return attention(
            x,
            source,
            inputs.mask,
            bias=inputs.bias,
            positions_BT=inputs.positions_BT,
            keys_B=inputs.keys_B,
            cache=cache,
            distances_RD=inputs.distances_RD,
        )

    def _attend_across(self, x: jax.Array, inputs: BlockInputs) -> jax.Array:
        """Cross-attention of x."""
        assert inputs.cross_mask is not None
        if inputs.encoded_keys_values is not None:
            key, value = inputs.encoded_keys_values
            y = self.cross_attention.attend_to_encoded(x, key, value, inputs.cross_mask, inputs.keys_B)
        else:
            assert inputs.encoded_BSD is not None
            # The encoder's output is normalised already: by its own final norm, or post-norm.
            y, *_ = self.cross_attention(x, inputs.encoded_BSD, inputs.cross_mask, keys_B=inputs.keys_B)
        if self.cfg.block_layout == "sandwich":
            y = self.cross_post_norm(y)
        return dropout(y, self.cfg.dropout, inputs.keys_B, CROSS_ATTENTION_OUTPUT)

    def _feed(
        self, x: jax.Array, keys_B: jax.Array | None, site_offset: int = 0
    ) -> tuple[jax.Array, Routing | None]:
        """Feed-forward network or experts of x, and what was routed where."""
        y = x
        routing = None
        # A layer has one network, as it has one mixer.
        for name in self.cfg.feedforwards:
            out = getattr(self, name)(x, keys_B, FEEDFORWARD_HIDDEN + site_offset)
            # Experts return what they routed; the network its output alone.
            y, routing = out if isinstance(out, tuple) else (out, None)
        if self.cfg.block_layout == "sandwich":
            y = self.feedforward_post_norm(y)
        elif self.cfg.block_layout == "output":
            y = self.feedforward_norm(y)
        # Tagged before dropout, whose bits are drawn again for less than it costs to keep them.
        y = dropout(checkpoint_name(y, "fed"), self.cfg.dropout, keys_B, FEEDFORWARD_OUTPUT + site_offset)
        return self.adapter(y) if self.cfg.adapters.bottleneck_dim else y, routing

    def _add(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The residual connection; post-norm streams are not scaled."""
        return x + y if self.cfg.block_layout == "post" else x + self._scaled(y)

    def _scaled(self, y: jax.Array) -> jax.Array:
        """Scale what a part adds to the stream: by the model's factor, and by the depth ratio of CompleteP."""
        if self.cfg.residual_multiplier != 1.0:
            y = y * self.cfg.residual_multiplier
        return y if self.cfg.layers_scale == 1.0 else y / self.cfg.layers_scale

    def _adapted(self, attended: jax.Array) -> jax.Array:
        adapters = self.cfg.adapters
        if adapters.bottleneck_dim and adapters.bottleneck_after_attention:
            return self.attention_adapter(attended)
        return attended

    def _source(self, x: jax.Array, inputs: BlockInputs) -> jax.Array:
        """Return the sequence of self-attention's keys and values: the memory, then x or its replacement."""
        # x is normalised by the caller; what stands in its place is not yet.
        source = x if inputs.source_BTD is None else self._as_read(inputs.source_BTD)
        if inputs.memory_BMD is None:
            return source
        return jnp.concatenate([self._memory(inputs.memory_BMD, x), source], axis=1)

    def _memory(self, memory_BMD: jax.Array, like: jax.Array) -> jax.Array:
        """The memory as attention reads it, without gradient."""
        return self._as_read(jax.lax.stop_gradient(memory_BMD).astype(like.dtype))

    def _as_read(self, inputs: jax.Array) -> jax.Array:
        # Attention of a pre-norm layer reads normalised inputs: other parts of the stream are normalised too.
        is_read_raw = self.cfg.block_layout in ("post", "output")
        return inputs if is_read_raw else self._attention_norm(inputs)
