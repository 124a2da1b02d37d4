"""Key/value caches for decoding: plain arrays that travel in the carry of the loop over layers.

Shapes: W positions that a convolution keeps, I its channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class ConvolutionCache(NamedTuple):
    """Last inputs of the causal convolutions of all layers (nn/evolved.py)."""

    inputs: jax.Array
    """[L, B, W, D]: of the first convolutions, after the norm."""

    hidden: jax.Array
    """[L, B, W, I]: of the convolution behind them."""


class KVCache(NamedTuple):
    """Keys and values of all layers of a decoder for the tokens so far."""

    key: jax.Array
    """[L, B, S, G, H], S the capacity; of layers with two self-attentions [2 L, ...], those of a layer together."""

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

    convolution: ConvolutionCache | None = None
    """Last inputs of the layers' convolutions; None: they have none."""


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

    convolution: ConvolutionCache | None = None
    """Of all layers; None: they have no convolutions."""


def empty(
    num_layers: int, batch: int, length: int, kv_heads: int, head_dim: int, dtype: jnp.dtype
) -> KVCache:
    """Create an empty cache.

    Args:
        num_layers: L, times the self-attentions of a layer.
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
    entries = (1, *key_BTGH.shape[:2], *cache.key.shape[3:])
    key = jax.lax.dynamic_update_slice(cache.key, key_BTGH.reshape(entries).astype(cache.key.dtype), start)
    value = jax.lax.dynamic_update_slice(
        cache.value, value_BTGH.reshape(entries).astype(cache.value.dtype), start
    )
    stored = (*key.shape[1:3], *key_BTGH.shape[2:])
    layer_key = jax.lax.dynamic_index_in_dim(key, cache.layer, keepdims=False).reshape(stored)
    layer_value = jax.lax.dynamic_index_in_dim(value, cache.layer, keepdims=False).reshape(stored)
    return cache._replace(key=key, value=value), layer_key, layer_value


def read_convolution(cache: LayerCache) -> tuple[jax.Array, jax.Array]:
    """Return a layer's last inputs [B, W, D] and hidden activations [B, W, I] of its convolutions."""
    assert cache.convolution is not None
    inputs, hidden = (jax.lax.dynamic_index_in_dim(x, cache.layer, keepdims=False) for x in cache.convolution)
    return inputs, hidden


def write_convolution(cache: LayerCache, inputs_BWD: jax.Array, hidden_BWI: jax.Array) -> LayerCache:
    """Store a layer's last inputs and hidden activations of its convolutions.

    Args:
        cache: the layer's view.
        inputs_BWD: the inputs.
        hidden_BWI: the hidden activations.

    Returns:
        The updated view.
    """
    assert cache.convolution is not None
    written = [
        jax.lax.dynamic_update_index_in_dim(x, new.astype(x.dtype), cache.layer, axis=0)
        for x, new in zip(cache.convolution, (inputs_BWD, hidden_BWI), strict=True)
    ]
    return cache._replace(convolution=ConvolutionCache(*written))
