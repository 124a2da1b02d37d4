"""Multi-head attention: projections around a kernel, with positions of every kind."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tlx.nn import cache as caches
from tlx.nn.adapter_modules import Prefix
from tlx.nn.cache import LayerCache
from tlx.nn.config import BlockConfig
from tlx.nn.disentangled import DisentangledLogits, dropped_distances
from tlx.nn.dropout import (
    ATTENTION_PROBABILITIES,
    CROSS_ATTENTION_PROBABILITIES,
    CROSS_LOW_RANK,
    LOW_RANK,
)
from tlx.nn.kernels import KERNELS, cudnn_statistics
from tlx.nn.kernels.choice import joins_heads, kernel_name
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.nn.linear import Linear, fused_projections, should_fuse
from tlx.nn.mask import Mask
from tlx.nn.norm import Norm
from tlx.nn.position import BucketedBias, RelativeLogits, rotate
from tlx.nn.relative import RelativeTerms
from tlx.parallel.sharding import constrain

QUERY_DIMS = ("batch", "sequence", "heads", "head_dim")
KEY_DIMS = ("batch", "sequence", "kv_heads", "head_dim")


class KeysValues(NamedTuple):
    """Keys and values of a sequence, as a kernel reads them."""

    key: jax.Array
    """[B, S, G, H]."""

    value: jax.Array
    """[B, S, G, H]."""


class Attended(NamedTuple):
    """Outputs of attention."""

    hidden: jax.Array
    """float[B, T, D]."""

    cache: LayerCache | None
    """The cache with the new keys and values."""

    keys_values: KeysValues
    """Keys and values that the queries attended to."""


class Attention(nn.Module):
    """Attention of a sequence to itself, or to another sequence."""

    cfg: BlockConfig
    """The layer."""

    cross: bool = False
    """Whether keys and values come from another sequence (the encoder's output), which has no positions
    here."""

    query_key_width: int = 0
    """Width of what queries and keys are made of, where it is not that of the output; 0: cfg.width."""

    value_width: int = 0
    """Width of what values are made of; 0: cfg.width."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        part = cfg.attention
        query_shape = (part.num_heads, cfg.head_dim)
        key_shape = (cfg.num_kv_heads, cfg.head_dim)
        query_names = ("embed", "heads", "head_dim")
        key_names = ("embed", "kv_heads", "head_dim")
        std = cfg.std(cfg.width)
        # An unscaled softmax (T5) needs queries that are smaller from the start.
        query_std = std if part.scale or cfg.init.kind == "normal" else std * cfg.head_dim**-0.5
        # A key bias adds the same to all logits of a query, which the softmax cancels: DeBERTa v1 has none.
        key_bias = part.qkv_bias and part.key_bias
        width = self.query_key_width or cfg.width
        self.query = self._linear("query", (width,), query_shape, query_names, query_std, part.qkv_bias)
        has_keys = cfg.keys != "shared"
        if has_keys:
            self.key = self._linear("key", (width,), key_shape, key_names, std, key_bias)
        if has_keys and not part.global_tied_values:
            value_width = self.value_width or cfg.width
            self.value = self._linear("value", (value_width,), key_shape, key_names, std, part.qkv_bias)
        out_std = cfg.residual_std(part.num_heads * cfg.head_dim)
        out_names = ("heads", "head_dim", "embed")
        self.out = self._linear("out", query_shape, (cfg.width,), out_names, out_std, part.out_bias)
        if cfg.position.kind == "relative_sinusoidal" and not self.cross:
            self.relative = RelativeLogits(cfg)
        if cfg.position.kind == "disentangled" and not self.cross:
            self.disentangled = DisentangledLogits(cfg)
        if part.qk_norm:
            self.query_norm = self._head_norm(part.num_heads)
        if part.qk_norm and has_keys:
            self.key_norm = self._head_norm(cfg.num_kv_heads)
        if part.value_norm and has_keys:
            self.value_norm = Norm(cfg.norm, cfg.head_dim, cfg.param_dtype, has_scale=False)
        if self._has_bias_table:
            self.position_bias = BucketedBias(cfg)
        if cfg.adapters.prefix_length and not self.cross:
            self.prefix = Prefix(cfg)

    def __call__(
        self,
        x_BTD: jax.Array,
        source_BSD: jax.Array | KeysValues,
        mask: Mask,
        *,
        bias: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        cache: LayerCache | None = None,
        distances_RD: jax.Array | None = None,
    ) -> Attended:
        """Attend from x to a source.

        Args:
            x_BTD: what queries are made of.
            source_BSD: what keys and values are made of: x itself, memory and x, or the encoder's output; or keys
                and values of an earlier layer, which has written them into the cache.
            mask: which keys each query may attend to.
            bias: float[1 or devices, N, T, S], the stack's bias by relative position; None: none.
            positions_BT: int[B, T], positions inside the documents, for rotary embeddings.
            keys_B: one PRNG key for each row; None: no dropout.
            cache: where this layer's keys and values are stored while decoding; None: nowhere.
            distances_RD: the table of distances of disentangled attention.

        Returns:
            Hidden states, and the cache with the new keys and values.
        """
        cfg = self.cfg
        if isinstance(source_BSD, KeysValues):
            query = self.queries(x_BTD, positions_BT, keys_B)
            key, value = source_BSD
        # By identity: only then do queries, keys and values read one array and may share a product.
        elif source_BSD is x_BTD:
            query, key, value = self.queries_keys_values(x_BTD, positions_BT, keys_B)
        else:
            query = self.queries(x_BTD, positions_BT, keys_B)
            key, value = self.keys_values(source_BSD, positions_BT, keys_B)
        if cache is not None and not isinstance(source_BSD, KeysValues):
            # Keys are stored rotated, so that no step rotates them again.
            cache, key, value = caches.write(cache, key, value)
        logits_bias: jax.Array | RelativeTerms | None = bias
        if cfg.position.kind == "relative_sinusoidal" and not self.cross:
            query, logits_bias = self.relative_terms(query, key.shape[1], mask, None)
        if cfg.position.kind == "disentangled" and not self.cross:
            assert distances_RD is not None
            table = dropped_distances(distances_RD, cfg.dropout, keys_B)
            logits_bias = self.disentangled(query, key, *self._projected_distances(table))
        if self._has_bias_table:
            logits_bias = self.position_bias(query.shape[1], key.shape[1], mask.query_start)
        site = CROSS_ATTENTION_PROBABILITIES if self.cross else ATTENTION_PROBABILITIES
        hidden = self.attend(query, key, value, mask, logits_bias, keys_B, site)
        return Attended(hidden, cache, KeysValues(key, value))

    def attend_to_encoded(
        self,
        x_BTD: jax.Array,
        key_BSGH: jax.Array,
        value_BSGH: jax.Array,
        mask: Mask,
        keys_B: jax.Array | None,
    ) -> jax.Array:
        """Attend to keys and values computed before: the encoder's, while decoding.

        Args:
            x_BTD: what queries are made of.
            key_BSGH: the encoder's keys.
            value_BSGH: the encoder's values.
            mask: which keys each query may attend to.
            keys_B: one PRNG key for each row; None: no dropout.

        Returns:
            float[B, T, D].
        """
        query = self.queries(x_BTD, None, keys_B)
        return self.attend(query, key_BSGH, value_BSGH, mask, None, keys_B, CROSS_ATTENTION_PROBABILITIES)

    def queries(
        self, x_BTD: jax.Array, positions_BT: jax.Array | None, keys_B: jax.Array | None = None
    ) -> jax.Array:
        """Compute queries, normalised and rotated as the config says.

        Args:
            x_BTD: what they are made of.
            positions_BT: int[B, T], for rotary embeddings.
            keys_B: one PRNG key for each row; None: no dropout.

        Returns:
            [B, T, N, H].
        """
        return self._place_query(self.query(x_BTD, keys_B), positions_BT)

    def keys_values(
        self,
        x_BSD: jax.Array,
        positions_BS: jax.Array | None,
        keys_B: jax.Array | None = None,
        value_source_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Compute keys and values, normalised and rotated as the config says.

        Args:
            x_BSD: what keys are made of.
            positions_BS: int[B, S], for rotary embeddings.
            keys_B: one PRNG key for each row; None: no dropout.
            value_source_BSD: what values are made of, of `value_width`; None: x.

        Returns:
            [B, S, G, H] each.
        """
        if value_source_BSD is None:
            projected = self._project(x_BSD, self._of_keys_values, keys_B)
            key = projected[0]
            value = projected[-1]
        else:
            key = self.key(x_BSD, keys_B)
            value = self.value(value_source_BSD, keys_B)
        return self._place_key_value(key, value, positions_BS)

    def queries_keys_values(
        self, x_BTD: jax.Array, positions_BT: jax.Array | None, keys_B: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute `queries` and `keys_values` of the same sequence.

        Args:
            x_BTD: what they are made of.
            positions_BT: int[B, T], for rotary embeddings.
            keys_B: one PRNG key for each row; None: no dropout.

        Returns:
            (queries, keys, values).
        """
        query, *projected = self._project(x_BTD, (self.query, *self._of_keys_values), keys_B)
        query = self._place_query(query, positions_BT)
        key, value = self._place_key_value(projected[0], projected[-1], positions_BT)
        return query, key, value

    def attend(
        self,
        query_BTNH: jax.Array,
        key_BSGH: jax.Array,
        value_BSGH: jax.Array,
        mask: Mask,
        bias: jax.Array | RelativeTerms | None,
        keys_B: jax.Array | None,
        site: int,
    ) -> jax.Array:
        """Run the kernel and the output projection.

        Args:
            query_BTNH: queries.
            key_BSGH: keys.
            value_BSGH: values.
            mask: which keys each query may attend to.
            bias: added to the logits before scaling, see AttentionInputs.
            keys_B: one PRNG key for each row; None: no dropout.
            site: dropout site of the attention probabilities.

        Returns:
            float[B, T, D].
        """
        cfg = self.cfg
        if cfg.adapters.prefix_length and not self.cross:
            key_BSGH, value_BSGH, mask, bias = self.prefix(query_BTNH, key_BSGH, value_BSGH, mask, bias)
        # Chosen after the prefix, which adds keys and makes the mask arbitrary.
        name = self._kernel_name(query_BTNH.shape[1], key_BSGH.shape[1], mask, bias)
        inputs = AttentionInputs(
            query_BTNH=query_BTNH,
            key_BSGH=key_BSGH,
            value_BSGH=value_BSGH,
            mask=mask,
            bias=bias,
            scale=cfg.softmax_scale,
            dropout_rate=cfg.attention.dropout,
            keys_B=keys_B,
            site=site,
            softcap=cfg.attention.softcap,
        )
        y = constrain(KERNELS.load(name)(inputs), QUERY_DIMS)
        if not (name == "splash" or (name == "cudnn" and cudnn_statistics.is_available())):
            # These two tag what their own backward pass reads; a second tag would keep the output twice.
            y = self._tagged(y, "attention")
        return checkpoint_name(self.out(y, keys_B), "attended")

    def content_logits(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        """Compute the logits of x attending to itself before any mask, without terms of relative positions.

        Returns:
            float32[B, N, T, T]. Query head n reads key head n // (N / G).
        """
        cfg = self.cfg
        softcap = cfg.attention.softcap
        query_BTNH = self.queries(x_BTD, positions_BT)
        key_BSGH = constrain(self._normed_and_rotated(self.key(x_BTD), "key", positions_BT), KEY_DIMS)
        # Repeated for the caller's sake, who compares heads one by one; kernels never repeat keys.
        key_BSNH = jnp.repeat(key_BSGH, cfg.attention.num_heads // cfg.num_kv_heads, axis=2)
        y = jnp.einsum("btnh,bsnh->bnts", query_BTNH, key_BSNH, preferred_element_type=jnp.float32)
        y = y * cfg.softmax_scale
        return softcap * jnp.tanh(y / softcap) if softcap else y

    def relative_terms(
        self,
        query_BTNH: jax.Array,
        num_keys: int,
        mask: Mask,
        different_BTS: jax.Array | None,
        places_BP: jax.Array | None = None,
        row_length: int = 0,
        backwards_B: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | RelativeTerms]:
        """Compute the position and segment terms of Transformer-XL's and XLNet's attention.

        Args:
            query_BTNH: queries, of T consecutive positions unless `places_BP` is given.
            num_keys: key length S, memory included.
            mask: which keys each query may attend to; it decides which kernel runs.
            different_BTS: bool[B, T, S], whether query and key are of different types; None: no segment term.
            places_BP: int[B, P], the positions of the queries (P = T) in a row of `row_length`.
            row_length: length of the row where `places_BP` is given.
            backwards_B: int[B], 1 for rows whose text is in reverse.

        Returns:
            (queries with the content bias, what is added to the logits): float[B, N, T, S], or the factors of
            it where the kernel multiplies them itself.
        """
        rows = row_length or query_BTNH.shape[1]
        keys_RNH = self.relative.keys(rows, num_keys, mask.query_start, backwards_B)
        if not self.cfg.position.segment_relative:
            different_BTS = None
        # Only the fused kernel multiplies the factors itself; unused, they are dead code to the compiler.
        terms = self.relative.term(query_BTNH, keys_RNH, rows, places_BP)
        kernel = self._kernel_name(query_BTNH.shape[1], num_keys, mask, terms)
        if different_BTS is None and kernel == "fused":
            return self.relative.bias_queries(query_BTNH), terms
        if places_BP is None:
            bias = self.relative(query_BTNH, keys_RNH, num_keys)
        else:
            bias = self.relative.gathered(query_BTNH, places_BP, keys_RNH, rows, num_keys)
        if different_BTS is not None:
            bias = bias + self.relative.segments(query_BTNH, different_BTS)
        return self.relative.bias_queries(query_BTNH), bias

    def _linear(
        self,
        target: str,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        names: tuple[str, ...],
        std: float,
        bias: bool,
    ) -> Linear:
        """A projection of LORA_TARGETS."""
        cfg = self.cfg
        return Linear(
            inputs=inputs,
            outputs=outputs,
            names=names,
            std=std,
            bias=bias,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            lora=cfg.lora(f"attention/{target}", CROSS_LOW_RANK if self.cross else LOW_RANK),
            flat=joins_heads(cfg),
            quantization=cfg.quantization,
            quantized_output=target not in ("query", "key"),
        )

    def _head_norm(self, num_heads: int) -> Norm:
        """The norm of queries or keys of so many heads."""
        cfg = self.cfg
        scope = cfg.attention.qk_norm_scope
        if scope == "all_heads":
            return Norm(cfg.norm, num_heads * cfg.head_dim, cfg.param_dtype)
        return Norm(cfg.norm, cfg.head_dim, cfg.param_dtype, num_heads if scope == "each_head" else 0)

    def _project(self, x: jax.Array, layers: Sequence[Linear], keys_B: jax.Array | None) -> list[jax.Array]:
        # Fused kernels would have one range, and quantised ones have their own.
        if should_fuse() and not self.cfg.quantization.bits:
            return fused_projections(x, layers, keys_B)
        return [layer(x, keys_B) for layer in layers]

    def _place_query(self, query: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        """Normalise, rotate and shard queries."""
        query = self._normed_and_rotated(query, "query", positions_BT)
        return self._tagged(constrain(query, QUERY_DIMS), "query")

    def _place_key_value(
        self, key: jax.Array, value: jax.Array, positions_BS: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Normalise, rotate and shard keys; shard values, and normalise them where the config says so."""
        key = self._normed_and_rotated(key, "key", positions_BS)
        if self.cfg.attention.value_norm:
            value = self.value_norm(value)
        key = constrain(key, KEY_DIMS)
        value = constrain(value, KEY_DIMS)
        key = self._tagged(key, "key")
        return key, self._tagged(value, "value")

    def _normed_and_rotated(self, x: jax.Array, side: str, positions: jax.Array | None) -> jax.Array:
        """Normalise, then rotate queries or keys, as the config says (Qwen 3 has both)."""
        if self.cfg.attention.qk_norm:
            norm = self.query_norm if side == "query" else self.key_norm
            over_all = self.cfg.attention.qk_norm_scope == "all_heads"
            x = norm(x.reshape(*x.shape[:2], -1)).reshape(x.shape) if over_all else norm(x)
        if self.cfg.position.kind == "rotary" and not self.cross:
            assert positions is not None
            x = rotate(x, positions, self.cfg.position)
        return x

    def _tagged(self, x_BTNH: jax.Array, name: str) -> jax.Array:
        """Tag a tensor for remat = "name+name"; heads are joined where the kernel reads them so."""
        if not joins_heads(self.cfg):
            return checkpoint_name(x_BTNH, name)
        joined = x_BTNH.reshape(*x_BTNH.shape[:2], -1)
        return checkpoint_name(joined, name).reshape(x_BTNH.shape)

    def _kernel_name(
        self, num_queries: int, num_keys: int, mask: Mask, bias: jax.Array | RelativeTerms | None
    ) -> str:
        if self.is_initializing():
            # Layers are initialised under a vmap, which cuDNN's kernel does not support.
            return "xla"
        has_visible = mask.visible is not None or mask.prefix is not None
        if isinstance(bias, RelativeTerms):
            # Reversed rows have distances of their own; a prefix pads the bias, and factors have no padding.
            per_row_bias = bias.keys_RNH.ndim == 4 or bool(self.cfg.adapters.prefix_length)
        else:
            # T5's and ALiBi's bias is the same for all rows; terms computed from queries are not.
            per_row_bias = bias is not None and self.cfg.position.kind not in ("relative_bias", "alibi")
        return kernel_name(self.cfg, num_queries, has_visible, num_keys, per_row_bias)

    def _projected_distances(self, distances: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(queries, keys) of disentangled attention's distances."""
        if self.cfg.position.shared_projections:
            return self.query(distances), self.key(distances)
        return self.disentangled.project(distances)

    @property
    def _of_keys_values(self) -> tuple[Linear, ...]:
        """The projections of keys and values: one where they are tied."""
        return (self.key,) if self.cfg.attention.global_tied_values else (self.key, self.value)

    @property
    def _has_bias_table(self) -> bool:
        """Whether this layer has a table of relative biases of its own (UMT5)."""
        position = self.cfg.position
        return position.kind == "relative_bias" and position.per_layer and not self.cross
