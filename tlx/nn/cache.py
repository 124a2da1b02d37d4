"""Caches for decoding, of keys and values, and of states: plain arrays in the carry of the loop over layers.

Shapes: U size of a state, W tokens before the next one that a convolution reads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.nn.config import BlockConfig


class StateSpaceCache(NamedTuple):
    """States of all layers with a state space (nn/state_space.py) after the tokens so far, or of one of them."""

    state: jax.Array
    """float32[L, B, N, H, U]; of one layer without L, as below."""

    x: jax.Array
    """[L, B, W, N, H]: what the convolutions read of the tokens before, 0 for those of earlier segments."""

    b: jax.Array
    """[L, B, W, G, U]."""

    c: jax.Array
    """[L, B, W, G, U]."""


class KVCache(NamedTuple):
    """Keys and values of a decoder's layers with attention, and states of its others, for the tokens so far."""

    key: jax.Array
    """[L, B, S, G, H], S the capacity, L the layers with attention."""

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

    states: StateSpaceCache | None = None
    """States of the layers with a state space; None: there are none."""


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
    """int[]: index of the layer among those with the same mixer."""

    start: jax.Array
    """int[]: entry of S where the next keys and values are written."""

    states: StateSpaceCache | None = None
    """States of all layers with a state space."""

    last_segment_B: jax.Array | None = None
    """int[B]: segment of the token before, -1 where there is none; None without such layers."""


def empty_states(block: BlockConfig, num_layers: int, batch: int) -> StateSpaceCache:
    """Create the states before the first token.

    Args:
        block: the layers.
        num_layers: those with a state space.
        batch: rows B.

    Returns:
        The states.
    """
    part = block.state_space
    dtype = jnp.dtype(block.dtype)
    heads = (block.state_heads, part.head_dim)
    window = (num_layers, batch, part.conv_size - 1)
    groups = (*window, part.num_groups, part.state_dim)
    return StateSpaceCache(
        # Float32 in any computation: a state is a sum over all tokens of a document.
        state=jnp.zeros((num_layers, batch, *heads, part.state_dim), jnp.float32),
        x=jnp.zeros((*window, *heads), dtype),
        b=jnp.zeros(groups, dtype),
        c=jnp.zeros(groups, dtype),
    )


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


def read_states(cache: LayerCache) -> StateSpaceCache:
    """Return the states of the layer."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, cache.layer, keepdims=False), cache.states)


def write_states(cache: LayerCache, states: StateSpaceCache) -> LayerCache:
    """Store the states of the layer in place of those before."""

    def written(of_all: jax.Array, of_one: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(of_all, of_one.astype(of_all.dtype), cache.layer, 0)

    return cache._replace(states=jax.tree.map(written, cache.states, states))
