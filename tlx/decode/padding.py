"""Padding of sequences to arrays of few shapes, so that few programs are compiled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SMALLEST_BUCKET = 16


class Padded(NamedTuple):
    """Padded sequences."""

    tokens: np.ndarray
    """Token ids, int32 [B, T]."""
    segments: np.ndarray
    """1 for a token, 0 for padding, int32 [B, T]."""
    positions: np.ndarray
    """Position, from 0 at each row's first token, int32 [B, T]."""


def bucket(length: int, smallest: int = SMALLEST_BUCKET) -> int:
    """Return the smallest power of two that is at least `length` and `smallest`."""
    return max(smallest, 1 << max(0, length - 1).bit_length())


def pad(sequences: Sequence[Sequence[int]], pad_id: int, *, left: bool, limit: int | None = None) -> Padded:
    """Stack sequences at the width of their bucket, padded on one side.

    Args:
        sequences: Token ids of each row.
        pad_id: Id of the padding.
        left: Pad on the left, else on the right.
        limit: Largest width, unless a sequence is longer; None: no limit.

    Returns:
        Arrays [B, T].
    """
    longest = max(len(sequence) for sequence in sequences)
    # Never beyond the model's positions: the bucket of a prompt that nearly fills them would be.
    width = max(longest, min(bucket(longest), limit or bucket(longest)))
    tokens = np.full((len(sequences), width), pad_id, np.int32)
    segments = np.zeros((len(sequences), width), np.int32)
    for row, sequence in enumerate(sequences):
        columns = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        tokens[row, columns] = sequence
        segments[row, columns] = 1
    return Padded(tokens, segments, np.maximum(np.cumsum(segments, axis=1) - 1, 0).astype(np.int32))
