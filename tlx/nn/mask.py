"""Which keys each query may attend to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mask(NamedTuple):
    """Visibility of keys as structure and data, so that a kernel may use the structure and skip the data.

    A query attends to a key where all conditions hold. Causality and windows compare indices in the row, not
    positions inside a document.
    """

    query_segments: jax.Array | None
    """int[B, T]. A query attends to keys of its own segment: 0 is padding. None: no condition."""

    key_segments: jax.Array | None
    """int[B, S], the same of the keys; -1 is an unfilled entry of a cache."""

    query_start: int | jax.Array = 0
    """Index of the first query among the keys: the length of a memory or of a filled cache."""

    causal: bool = False
    """Whether keys after the query are hidden."""

    window: int = 0
    """Only keys nearer than this are visible, on both sides unless causal; 0: all."""

    visible: jax.Array | None = None
    """A further condition bool[B, T, S] (permutations of XLNet); None: none."""

    prefix: jax.Array | None = None
    """int[B, S]: keys where it is not 0 are visible to their whole segment in spite of `causal` (prefix
    LM)."""


def dense(mask: Mask, num_queries: int, num_keys: int) -> jax.Array | None:
    """Build the mask as one array.

    Args:
        mask: the conditions.
        num_queries: query length T.
        num_keys: key length S.

    Returns:
        bool[B or 1, 1, T, S], true where a query may attend to a key; None where everything is visible.
    """
    conditions = []
    if mask.causal or mask.window:
        query = jnp.arange(num_queries)[:, None] + mask.query_start
        key = jnp.arange(num_keys)[None, :]
        if mask.causal:
            earlier = (key <= query)[None]
            if mask.prefix is not None:
                # Segments, below, still keep a prefix to its own document.
                earlier = earlier | (mask.prefix[:, None, :] > 0)
            conditions.append(earlier)
        if mask.window:
            # Both sides; where attention is causal, the later side is hidden already.
            conditions.append((jnp.abs(query - key) < mask.window)[None])
    if mask.query_segments is not None:
        assert mask.key_segments is not None
        conditions.append(mask.query_segments[:, :, None] == mask.key_segments[:, None, :])
    if mask.visible is not None:
        conditions.append(mask.visible)
    if not conditions:
        return None
    combined = conditions[0]
    for condition in conditions[1:]:
        combined = combined & condition
    return combined[:, None]
