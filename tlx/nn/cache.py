"""Key/value caches for decoding: plain arrays that travel in the carry of the loop over layers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class KVCache(NamedTuple):
    """Keys and values of all layers of a decoder for the tokens so far."""

    key: jax.Array
    """[L, B, S, G, H], S the capacity."""

    value: jax.Array
    """[L, B, S, G, H]."""

    segments: jax.Array
    """int[B, S]: segments of the stored tokens, 0 for padding, -1 where nothing is stored yet."""

    num_filled: jax.Array
    """int[]: number of entries of S that are filled, equal for all rows."""

    cross_key: jax.Array | None = None
    """Cross-attention's keys [L, B, S', G, H] of an encoder output of length S'; None for decoders alone."""

    cross_value: jax.Array | None = None
    """Cross-attention's values [L, B, S', G, H]."""

    cross_segments: jax.Array | None = None
    """int[B, S']: segments of the encoder's tokens."""


class LayerCache(NamedTuple):
    """One layer's view of the cache: the arrays of all layers, and where this one writes.

    The arrays stay whole, so that the loop over layers updates them in place instead of copying a layer in
    and out of each iteration.
    """

    key: jax.Array
    """[L, B, S, G, H]."""

    value: jax.Array
    """[L, B, S, G, H]."""

    layer: jax.Array
    """int[]: index of the layer."""

    start: jax.Array
    """int[]: entry of S where the next keys and values are written."""


def empty(
    num_layers: int, batch: int, length: int, kv_heads: int, head_dim: int, dtype: jnp.dtype
) -> KVCache:
    """Create an empty cache.

    Args:
        num_layers: L.
        batch: rows B.
        length: capacity S, in tokens.
        kv_heads: G.
        head_dim: H.
        dtype: of keys and values.

    Returns:
        The cache, without an encoder's part.
    """
    shape = (num_layers, batch, length, kv_heads, head_dim)
    return KVCache(
        key=jnp.zeros(shape, dtype),
        value=jnp.zeros(shape, dtype),
        # -1 is no token's segment, so that unfilled entries are visible to none.
        segments=jnp.full((batch, length), -1, jnp.int32),
        num_filled=jnp.zeros((), jnp.int32),
    )


def filled(
    cache: KVCache, key_LBSGH: jax.Array, value_LBSGH: jax.Array, segments_BS: jax.Array | np.ndarray
) -> KVCache:
    """Put stored keys and values of all layers at the beginning of an empty cache.

    Args:
        cache: the empty cache.
        key_LBSGH: keys of S tokens, fewer than the cache has entries.
        value_LBSGH: their values.
        segments_BS: their segments.

    Returns:
        The cache with S filled entries.
    """
    start = (0,) * 5
    return cache._replace(
        key=jax.lax.dynamic_update_slice(cache.key, key_LBSGH.astype(cache.key.dtype), start),
        value=jax.lax.dynamic_update_slice(cache.value, value_LBSGH.astype(cache.value.dtype), start),
        segments=jax.lax.dynamic_update_slice(cache.segments, jnp.asarray(segments_BS), (0, 0)),
        num_filled=jnp.int32(segments_BS.shape[1]),
    )


def grown(cache: KVCache, length: int) -> KVCache:
    """Return the cache with `length` entries, the new ones empty; the encoder's part is as it was."""
    missing = length - cache.segments.shape[1]
    entries = ((0, 0), (0, 0), (0, missing), (0, 0), (0, 0))
    return cache._replace(
        key=jnp.pad(cache.key, entries),
        value=jnp.pad(cache.value, entries),
        segments=jnp.pad(cache.segments, ((0, 0), (0, missing)), constant_values=-1),
    )


def write(
    cache: LayerCache, key_BTGH: jax.Array, value_BTGH: jax.Array
) -> tuple[LayerCache, jax.Array, jax.Array]:
    """Store the keys and values of T new tokens.

    Args:
        cache: the layer's view.
        key_BTGH: new keys.
        value_BTGH: new values.

    Returns:
        (the updated view, all keys of the layer [B, S, G, H], all its values [B, S, G, H]).
    """
    # Written into the arrays of all layers, which XLA does in place inside the loop over layers.
    start = (cache.layer, 0, cache.start, 0, 0)
    key = jax.lax.dynamic_update_slice(cache.key, key_BTGH[None].astype(cache.key.dtype), start)
    value = jax.lax.dynamic_update_slice(cache.value, value_BTGH[None].astype(cache.value.dtype), start)
    layer_key = jax.lax.dynamic_index_in_dim(key, cache.layer, keepdims=False)
    layer_value = jax.lax.dynamic_index_in_dim(value, cache.layer, keepdims=False)
    return cache._replace(key=key, value=value), layer_key, layer_value
