"""Caches whose rows are repeated or change places: the beams of a row, the choices behind a prompt."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tlx.nn.cache import KVCache


def repeat(cache: KVCache, times: int) -> KVCache:
    """Every row so many times, one behind the other."""
    return _rows(cache, lambda array, axis: jnp.repeat(array, times, axis=axis), cross=True)


def reorder(cache: KVCache, parents_BK: jax.Array) -> KVCache:
    """The row of every beam's parent. What is of the encoder is the same for all beams of a row."""
    batch, num_beams = parents_BK.shape
    rows_R = (jnp.arange(batch)[:, None] * num_beams + parents_BK).reshape(-1)
    return _rows(cache, lambda array, axis: jnp.take(array, rows_R, axis=axis), cross=False)


def _rows(cache: KVCache, change: Callable[[jax.Array, int], jax.Array], cross: bool) -> KVCache:
    """The cache with its dim of rows changed."""
    changed = {name: change(getattr(cache, name), 1) for name in ("key", "value")}
    changed["segments"] = change(cache.segments, 0)
    if cross and cache.cross_key is not None:
        changed |= {name: change(getattr(cache, name), 1) for name in ("cross_key", "cross_value")}
        changed["cross_segments"] = change(cache.cross_segments, 0)
    return cache._replace(**changed)
