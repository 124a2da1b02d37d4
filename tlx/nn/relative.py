"""Relative terms of attention logits before they are laid out over the keys."""

from typing import NamedTuple

import jax


class RelativeTerms(NamedTuple):
    """Factors of logits[b, n, i, j] += query[b, i, n] . keys[rows - 1 - p_i + j, n]; see nn/position.py.

    p_i is the position of query i in its row. A kernel that keeps the logits on the chip multiplies the
    factors there; laid out over the keys in memory the terms are as large as the logits.
    """

    query_BTNH: jax.Array
    """Queries with the position bias added, float[B, T, N, H]."""

    keys_RNH: jax.Array
    """Projected distances, float[R, N, H] or float[B, R, N, H]; R = rows - 1 + the number of keys."""

    rows: int
    """Number of positions of a row, which is T where all of them are queries."""

    places_BP: jax.Array | None = None
    """int[B, P], the positions of the queries (P = T) in a row of `rows`; None: query i is at position i."""
