"""Repetition and reordering of a cache's rows: the beams of a row, the choices after a prompt.

Shapes: W rows of the cache (B times K).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tlx.nn.cache import KVCache


def repeat(cache: KVCache, times: int) -> KVCache:
    """Repeat every row `times` times, the copies of one row next to each other."""
    return _rows(cache, lambda array, axis: jnp.repeat(array, times, axis=axis), cross=True)


def reorder(cache: KVCache, parents_BK: jax.Array) -> KVCache:
    """Give every beam its parent's row; the encoder's part is the same for all beams of a row."""
    batch, num_beams = parents_BK.shape
    rows_W = (jnp.arange(batch)[:, None] * num_beams + parents_BK).reshape(-1)
    return _rows(cache, lambda array, axis: jnp.take(array, rows_W, axis=axis), cross=False)


def _rows(cache: KVCache, change: Callable[[jax.Array, int], jax.Array], cross: bool) -> KVCache:
    """Apply `change(array, row axis)` to every array, to those of the encoder only if `cross`."""
    changed: dict[str, Any] = {name: change(getattr(cache, name), 1) for name in ("key", "value")}
    changed["segments"] = change(cache.segments, 0)
    changed["states"] = jax.tree.map(lambda array: change(array, 1), cache.states)
    if cross and cache.cross_key is not None:
        changed |= {name: change(getattr(cache, name), 1) for name in ("cross_key", "cross_value")}
        # The three arrays of the encoder are set together.
        assert cache.cross_segments is not None
        changed["cross_segments"] = change(cache.cross_segments, 0)
    return cache._replace(**changed)
