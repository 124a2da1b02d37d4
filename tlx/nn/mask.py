"""Which keys a query may see."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mask(NamedTuple):
    """Visibility as data and structure, so that a kernel can use the structure and skip the data.

    Segments are equal where attention is allowed; 0 is padding, -1 an unfilled slot of a cache.
    Indices are places in the row (not positions inside a document): causal and window use them. A query
    sees the keys nearer than `window`, on both sides unless causal; 0: all.
    `visible`, where given, is a further bool[B, T, S] condition (permutations). `prefix` lifts causality
    from keys: those where it is not 0 are seen by their whole segment (prefix LM).
    """

    query_segments: jax.Array | None  # int[B, T]
    key_segments: jax.Array | None  # int[B, S]
    query_start: int | jax.Array = 0  # index of the first query among the keys
    causal: bool = False
    window: int = 0
    visible: jax.Array | None = None
    prefix: jax.Array | None = None  # int[B, S]


def dense(mask: Mask, num_queries: int, num_keys: int) -> jax.Array | None:
    """bool[B or 1, 1, T, S], or None where everything is visible."""
    parts = []
    if mask.causal or mask.window:
        query = jnp.arange(num_queries)[:, None] + mask.query_start
        key = jnp.arange(num_keys)[None, :]
        if mask.causal:
            seen = (key <= query)[None]
            parts.append(seen if mask.prefix is None else seen | (mask.prefix[:, None, :] > 0))
        if mask.window:
            parts.append((jnp.abs(query - key) < mask.window)[None])
    if mask.query_segments is not None:
        parts.append(mask.query_segments[:, :, None] == mask.key_segments[:, None, :])
    if mask.visible is not None:
        parts.append(mask.visible)
    if not parts:
        return None
    combined = parts[0]
    for part in parts[1:]:
        combined = combined & part
    return combined[:, None]
