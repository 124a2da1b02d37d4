"""Key-value caches for decoding: plain arrays that ride in the carry of the layer loop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KVCache(NamedTuple):
    """What a decoder remembers of a batch.

    key, value: [L, B, S, G, H]; segments: int[B, S], -1 where nothing is stored yet; index: number of
    places filled; cross_*: the encoder's keys, values [L, B, S', G, H] and segments int[B, S'].
    """

    key: jax.Array
    value: jax.Array
    segments: jax.Array
    num_filled: jax.Array
    cross_key: jax.Array | None = None
    cross_value: jax.Array | None = None
    cross_segments: jax.Array | None = None


class LayerCache(NamedTuple):
    """One layer's view of the cache: the whole arrays, the layer and where to write."""

    key: jax.Array
    value: jax.Array
    layer: jax.Array
    start: jax.Array


def empty(
    num_layers: int, batch: int, length: int, kv_heads: int, head_dim: int, dtype: jnp.dtype
) -> KVCache:
    """A cache with room for `length` places."""
    shape = (num_layers, batch, length, kv_heads, head_dim)
    segments = jnp.full((batch, length), -1, jnp.int32)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), segments, jnp.zeros((), jnp.int32))


def write(
    slot: LayerCache, key_BTGH: jax.Array, value_BTGH: jax.Array
) -> tuple[LayerCache, jax.Array, jax.Array]:
    """Stores new keys and values and returns all of the layer's, [B, S, G, H] each."""
    at = (slot.layer, 0, slot.start, 0, 0)
    key = jax.lax.dynamic_update_slice(slot.key, key_BTGH[None].astype(slot.key.dtype), at)
    value = jax.lax.dynamic_update_slice(slot.value, value_BTGH[None].astype(slot.value.dtype), at)
    layer_key = jax.lax.dynamic_index_in_dim(key, slot.layer, keepdims=False)
    layer_value = jax.lax.dynamic_index_in_dim(value, slot.layer, keepdims=False)
    return slot._replace(key=key, value=value), layer_key, layer_value
