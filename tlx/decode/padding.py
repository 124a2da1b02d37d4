"""Sequences of different lengths as arrays of few shapes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SMALLEST_BUCKET = 16


class Padded(NamedTuple):
    """Sequences of different lengths as arrays."""

    tokens: np.ndarray  # int32 [B, T]
    segments: np.ndarray  # int32 [B, T]: 1, and 0 for padding
    positions: np.ndarray  # int32 [B, T]: from 0 at each row's first token


def bucket(length: int, smallest: int = SMALLEST_BUCKET) -> int:
    """The power of two from `smallest` up that holds `length`."""
    return max(smallest, 1 << max(0, length - 1).bit_length())


def pad(sequences: Sequence[Sequence[int]], pad_id: int, *, left: bool, limit: int | None = None) -> Padded:
    """Stacks sequences at the width of their bucket (at most `limit`), padded on one side."""
    longest = max(len(sequence) for sequence in sequences)
    width = max(longest, min(bucket(longest), limit or bucket(longest)))
    tokens = np.full((len(sequences), width), pad_id, np.int32)
    segments = np.zeros((len(sequences), width), np.int32)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        tokens[row, place] = sequence
        segments[row, place] = 1
    return Padded(tokens, segments, np.maximum(np.cumsum(segments, axis=1) - 1, 0).astype(np.int32))
