"""Caches for decoding, of keys and values, and of states: plain arrays in the carry of the loop over layers.

Shapes: U size of a state, W tokens before the next one that a convolution reads, I a convolution's channels.
"""

import math
from typing import Any, NamedTuple

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


class ConvolutionCache(NamedTuple):
    """Last inputs of the causal convolutions of all layers (nn/evolved.py)."""

    inputs: jax.Array
    """[L, B, W, D]: of the first convolutions, after the norm."""

    hidden: jax.Array
    """[L, B, W, I]: of the convolution behind them."""


class KVCache(NamedTuple):
    """Keys and values of a decoder's layers with attention, and states of its others, for the tokens so far."""

    key: jax.Array
    """[L, B, S, G, H], S the capacity, L the layers with keys; of layers with two self-attentions [2 L, ...], those
    of a layer together. Where layers have unlike numbers of heads, L, G and H are those of a `CacheLayout`."""

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

    states: StateSpaceCache | ConvolutionCache | None = None
    """What the layers keep besides keys and values; None: they keep nothing."""


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
    """int[]: index of the layer among those with the same mixer; its first entry of L, by `CacheLayout`."""

    start: jax.Array
    """int[]: entry of S where the next keys and values are written."""

    states: StateSpaceCache | ConvolutionCache | None = None
    """States of all layers that have them."""

    last_segment_B: jax.Array | None = None
    """int[B]: segment of the token before, -1 where there is none; None without states."""


class CacheLayout(NamedTuple):
    """Entries of L that the layers of a stack have in a cache."""

    first: tuple[int, ...]
    """First entry of each layer: of keys and values, that of an earlier layer where it shares them, or of states."""

    num_entries: int
    """Entries of keys and values."""

    kv_heads: int
    """Key/value heads of an entry."""

    head_dim: int
    """Size of such a head."""


def layout(block: BlockConfig) -> CacheLayout:
    """Divide a cache among the layers of a stack.

    A layer has one entry. Where layers have unlike numbers of keys a token, an entry holds the greatest common
    divisor of them, and a layer has as many as it needs.

    Args:
        block: the layers.

    Returns:
        The layout.
    """
    layers = block.layers
    # Layers without keys of their own read those of an earlier layer, and need no room.
    writing = [layer for layer in layers if "attention" in layer.mixers and layer.keys != "shared"]
    head_dim = math.gcd(*(layer.head_dim for layer in writing)) or block.head_dim
    kv_dim = math.gcd(*(layer.num_kv_heads * layer.head_dim for layer in writing))
    first: list[int] = []
    last: dict[str, int] = {}
    num_entries = 0
    num_states = 0
    for layer in layers:
        if "attention" not in layer.mixers:
            first.append(num_states)
            num_states += 1
        elif layer.keys == "shared":
            first.append(last[layer.shared_kind])
        else:
            last[layer.shared_kind] = num_entries
            first.append(num_entries)
            num_entries += layer.num_kv_heads * layer.head_dim // kv_dim
    kv_heads = kv_dim // head_dim or block.num_kv_heads
    return CacheLayout(tuple(first), num_entries * block.num_attentions, kv_heads, head_dim)


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
        key_BTGH: new keys; of as many numbers as the cache has for a token, in heads of any size.
        value_BTGH: new values.

    Returns:
        (the updated view, all keys of the layer [B, S, G, H], all its values [B, S, G, H]).
    """
    # Written into the arrays of all layers, which XLA does in place inside the loop over layers.
    start = (cache.layer, 0, cache.start, 0, 0)
    key = jax.lax.dynamic_update_slice(cache.key, _as_entries(key_BTGH, cache.key), start)
    value = jax.lax.dynamic_update_slice(cache.value, _as_entries(value_BTGH, cache.value), start)
    cache = cache._replace(key=key, value=value)
    return cache, *read(cache, *key_BTGH.shape[2:])


def read(cache: LayerCache, kv_heads: int, head_dim: int) -> tuple[jax.Array, jax.Array]:
    """Read the keys and values of a layer.

    Args:
        cache: the layer's view.
        kv_heads: its key/value heads G.
        head_dim: their size H.

    Returns:
        (all its keys [B, S, G, H], all its values [B, S, G, H]).
    """

    def of_layer(stored: jax.Array) -> jax.Array:
        count = kv_heads * head_dim // math.prod(stored.shape[3:])
        shape = (*stored.shape[1:3], kv_heads, head_dim)
        if count == 1:
            return jax.lax.dynamic_index_in_dim(stored, cache.layer, keepdims=False).reshape(shape)
        # Several entries hold the parts of each token's keys, one after the other.
        entries = jax.lax.dynamic_slice_in_dim(stored, cache.layer, count)
        return jnp.moveaxis(entries, 0, 2).reshape(shape)

    return of_layer(cache.key), of_layer(cache.value)


def _as_entries(x_BTGH: jax.Array, stored: jax.Array) -> jax.Array:
    """New keys or values as entries of a cache's array: one, or several beside each other."""
    batch, length, kv_heads, head_dim = x_BTGH.shape
    of_entry = stored.shape[3:]
    count = kv_heads * head_dim // math.prod(of_entry)
    x_BTGH = x_BTGH.astype(stored.dtype)
    if count == 1:
        return x_BTGH.reshape(1, batch, length, *of_entry)
    return jnp.moveaxis(x_BTGH.reshape(batch, length, count, *of_entry), 2, 0)


def read_states(cache: LayerCache) -> Any:
    """Return the states of the layer, as one entry of the layers' in `cache.states`."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, cache.layer, keepdims=False), cache.states)


def write_states(cache: LayerCache, states: StateSpaceCache | ConvolutionCache) -> LayerCache:
    """Store the states of the layer in place of those before."""

    def written(of_all: jax.Array, of_one: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(of_all, of_one.astype(of_all.dtype), cache.layer, 0)

    return cache._replace(states=jax.tree.map(written, cache.states, states))
