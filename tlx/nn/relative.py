"""A relative term of attention logits before it is laid out over the keys."""

from typing import NamedTuple

import jax


class RelativeTerms(NamedTuple):
    """logits[b, n, i, j] += query[b, i, n] . keys[rows - 1 - place_i + j, n]: see nn/position.py.

    place_i is i, or `places[b, i]` where the queries are some of a row of `rows`. A kernel that keeps logits
    on the chip makes the term there; laid out over the keys it is as large as the logits.
    """

    query_BTNH: jax.Array
    keys_RNH: jax.Array  # R = rows - 1 + the number of keys
    rows: int
    places_BP: jax.Array | None = None
