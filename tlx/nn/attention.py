"""Multi-head attention: projections around a kernel, with positions of every kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tlx.nn import cache as caches
from tlx.nn.adapter_modules import Prefix
from tlx.nn.config import BlockConfig
from tlx.nn.disentangled import DisentangledLogits, dropped_distances
from tlx.nn.kernels import KERNELS
from tlx.nn.kernels.choice import joins_heads, kernel_name
from tlx.nn.linear import Linear, fused_projections, should_fuse
from tlx.nn.mask import Mask
from tlx.nn.norm import Norm
from tlx.nn.position import BucketedBias, RelativeLogits, rotate
from tlx.nn.relative import RelativeTerms
from tlx.parallel.sharding import constrain

QUERY_DIMS = ("batch", "sequence", "heads", "head_dim")
KEY_DIMS = ("batch", "sequence", "kv_heads", "head_dim")


class Attention(nn.Module):
    """Attention from x to itself, or to another sequence where `cross`."""

    cfg: BlockConfig
    cross: bool = False

    def setup(self):
        cfg = self.cfg
        heads, kv_heads = (cfg.attention.num_heads, cfg.head_dim), (cfg.num_kv_heads, cfg.head_dim)
        bias, dtypes = cfg.attention.qkv_bias, (cfg.dtype, cfg.param_dtype)
        std = cfg.std(cfg.width)
        # An unscaled softmax (T5) wants queries that are smaller from the start.
        query_std = std if cfg.attention.scale or cfg.init.kind == "normal" else std * cfg.head_dim**-0.5
        rest = [
            (*dtypes, cfg.lora(f"attention/{name}"), joins_heads(cfg))
            for name in ("query", "key", "value", "out")
        ]
        names = ("embed", "heads", "head_dim")
        self.query = Linear((cfg.width,), heads, names, query_std, bias, *rest[0])
        names = ("embed", "kv_heads", "head_dim")
        key_bias = bias and cfg.attention.key_bias
        self.key = Linear((cfg.width,), kv_heads, names, std, key_bias, *rest[1])
        self.value = Linear((cfg.width,), kv_heads, names, std, bias, *rest[2])
        out_std = cfg.residual_std(cfg.attention.num_heads * cfg.head_dim)
        names = ("heads", "head_dim", "embed")
        self.out = Linear(heads, (cfg.width,), names, out_std, cfg.attention.out_bias, *rest[3])
        if cfg.position.kind == "relative_sinusoidal" and not self.cross:
            self.relative = RelativeLogits(cfg)
        if cfg.position.kind == "disentangled" and not self.cross:
            self.disentangled = DisentangledLogits(cfg)
        if cfg.attention.qk_norm:
            self.query_norm = Norm(cfg.norm, cfg.head_dim, cfg.param_dtype)
            self.key_norm = Norm(cfg.norm, cfg.head_dim, cfg.param_dtype)
        if self._own_bias:
            self.position_bias = BucketedBias(cfg)
        if cfg.adapters.prefix_length and not self.cross:
            self.prefix = Prefix(cfg)

    def queries(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        return self._place_query(self.query(x_BTD), positions_BT)

    def keys_values(self, x_BSD: jax.Array, positions_BS: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return self._place_key_value(*self._projected(x_BSD, self.key, self.value), positions_BS)

    def queries_keys_values(
        self, x_BTD: jax.Array, positions_BT: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of x attending to itself: `queries` and `keys_values`."""
        query, key, value = self._projected(x_BTD, self.query, self.key, self.value)
        return self._place_query(query, positions_BT), *self._place_key_value(key, value, positions_BT)

    def _projected(self, x: jax.Array, *layers: Linear) -> list[jax.Array]:
        return fused_projections(x, layers) if should_fuse() else [layer(x) for layer in layers]

    def _place_query(self, query: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        if self.cfg.attention.qk_norm:
            query = self.query_norm(query)
        if self.cfg.position.kind == "rotary" and not self.cross:
            query = rotate(query, positions_BT, self.cfg.position)
        return self._named(constrain(query, QUERY_DIMS), "query")

    def _place_key_value(
        self, key: jax.Array, value: jax.Array, positions_BS: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        if self.cfg.attention.qk_norm:
            key = self.key_norm(key)
        if self.cfg.position.kind == "rotary" and not self.cross:
            key = rotate(key, positions_BS, self.cfg.position)
        key, value = constrain(key, KEY_DIMS), constrain(value, KEY_DIMS)
        return self._named(key, "key"), self._named(value, "value")

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
        """The kernel and the output projection, [B, T, D]."""
        cfg = self.cfg
        if cfg.adapters.prefix_length and not self.cross:
            key_BSGH, value_BSGH, mask, bias = self.prefix(query_BTNH, key_BSGH, value_BSGH, mask, bias)
        part, name = cfg.attention, self._kernel(query_BTNH.shape[1], key_BSGH.shape[1], mask, bias)
        y = KERNELS.load(name)(
            query_BTNH,
            key_BSGH,
            value_BSGH,
            mask,
            bias,
            cfg.softmax_scale,
            part.dropout,
            keys_B,
            site,
            part.softcap,
        )
        y = constrain(y, QUERY_DIMS)
        if name != "splash":  # which names what its own backward pass reads
            y = self._named(y, "attention")
        return checkpoint_name(self.out(y), "attended")

    def _named(self, x_BTNH: jax.Array, name: str) -> jax.Array:
        """checkpoint_name; what is kept has heads joined where the kernel reads them so."""
        if not joins_heads(self.cfg):
            return checkpoint_name(x_BTNH, name)
        flat = x_BTNH.reshape(*x_BTNH.shape[:2], -1)
        return checkpoint_name(flat, name).reshape(x_BTNH.shape)

    def _kernel(
        self, num_queries: int, num_keys: int, mask: Mask, bias: jax.Array | RelativeTerms | None
    ) -> str:
        if self.is_initializing():  # layers are initialised under a vmap, which cuDNN's kernel does not know
            return "xla"
        arbitrary = mask.visible is not None or mask.prefix is not None
        if isinstance(bias, RelativeTerms):
            own = bias.keys_RNH.ndim == 4 or bool(self.cfg.adapters.prefix_length)
        else:
            own = bias is not None and self.cfg.position.kind != "relative_bias"
        return kernel_name(self.cfg, num_queries, arbitrary, num_keys, own)

    def content_logits(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        """What the softmax of `x` attending to itself is of, before any mask: float32[B, N, T, T].

        Without terms of relative positions. Query head n reads key head n // (N / G).
        """
        cfg, query_BTNH = self.cfg, self.queries(x_BTD, positions_BT)
        key_BSGH, _ = self.keys_values(x_BTD, positions_BT)
        key_BSNH = jnp.repeat(key_BSGH, cfg.attention.num_heads // cfg.num_kv_heads, axis=2)
        y = jnp.einsum("btnh,bsnh->bnts", query_BTNH, key_BSNH, preferred_element_type=jnp.float32)
        y = y * cfg.softmax_scale
        return cfg.attention.softcap * jnp.tanh(y / cfg.attention.softcap) if cfg.attention.softcap else y

    def relative_terms(
        self,
        query_BTNH: jax.Array,
        num_keys: int,
        mask: Mask,
        different_BTS: jax.Array | None,
        places_BP: jax.Array | None = None,
        row_length: int = 0,
        backwards_B: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """(queries with the content bias, additive logits) of relative attention.

        `places_BP` gives the places of the queries in a row of `row_length`, where they are not all of it;
        `backwards` is 1 for rows in reverse.
        """
        cfg = self.cfg
        rows = row_length or query_BTNH.shape[1]
        keys_RNH = self.relative.keys(rows, num_keys, mask.query_start, backwards_B)
        own = cfg.position.segment_relative and different_BTS is not None
        term = self.relative.term(query_BTNH, keys_RNH, rows, places_BP)
        if not own and self._kernel(query_BTNH.shape[1], num_keys, mask, term) == "fused":
            return self.relative.bias_queries(query_BTNH), term
        if places_BP is None:
            bias = self.relative(query_BTNH, keys_RNH, num_keys)
        else:
            bias = self.relative.gathered(query_BTNH, places_BP, keys_RNH, rows, num_keys)
        if own:
            bias = bias + self.relative.segments(query_BTNH, different_BTS)
        return self.relative.bias_queries(query_BTNH), bias

    def __call__(
        self,
        x_BTD: jax.Array,
        source_BSD: jax.Array | None,
        mask: Mask,
        *,
        bias: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        different_BTS: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        site: int = 0,
        slot: caches.LayerCache | None = None,
        given: tuple[jax.Array, jax.Array] | None = None,
        distances_RD: jax.Array | None = None,
    ) -> tuple[jax.Array, caches.LayerCache | None]:
        """Attends from x to `source` (memory and x itself, or the encoder's output).

        `given` are keys and values computed before (the encoder's, while decoding); `slot` is where this
        layer's keys and values are cached. `distances` is the table of disentangled attention. Returns
        [B, T, D] and the slot with the new ones.
        """
        if source_BSD is x_BTD and given is None:
            query, key, value = self.queries_keys_values(x_BTD, positions_BT)
        else:
            query = self.queries(x_BTD, positions_BT)
            key, value = given if given is not None else self.keys_values(source_BSD, positions_BT)
        if slot is not None:
            slot, key, value = caches.write(slot, key, value)
        if self.cfg.position.kind == "relative_sinusoidal" and not self.cross:
            query, bias = self.relative_terms(query, key.shape[1], mask, different_BTS)
        if self.cfg.position.kind == "disentangled" and not self.cross:
            table = dropped_distances(distances_RD, self.cfg.dropout, keys_B)
            bias = self.disentangled(query, key, *self._positions(table))
        if self._own_bias:
            bias = self.position_bias(query.shape[1], key.shape[1], mask.query_start)
        return self.attend(query, key, value, mask, bias, keys_B, site), slot

    def _positions(self, distances: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.cfg.position.shared_projections:
            return self.query(distances), self.key(distances)
        return self.disentangled.project(distances)

    @property
    def _own_bias(self) -> bool:
        position = self.cfg.position
        return position.kind == "relative_bias" and position.per_layer and not self.cross
