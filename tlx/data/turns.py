"""Conversations as tokens: separators between turns, and the ratings of the last turn.

The format is: turn sep turn sep turn. Before a rated last turn, each rated attribute adds two marks: the
attribute's and the rating's. Objectives put the mark RESPONSE before the turn to predict.
"""

from collections.abc import Sequence

import numpy as np

from tlx.base.errors import ConfigError
from tlx.text.vocabulary import Vocabulary

# Indices of marks (Vocabulary.mark).
RESPONSE = 0
RATING = 1  # rating 0; rating 1 is the next mark
ATTRIBUTE = 3  # the first attribute; the others follow


def conversation(
    turns: Sequence[np.ndarray], ratings: Sequence[int | None], vocab: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """Join the turns of a conversation to one token sequence.

    Args:
        turns: int32 ids of each turn, without separators.
        ratings: Rating of the last turn for each attribute: 0, 1, or None for not rated.
        vocab: Vocabulary with the separator and the marks.

    Returns:
        Tokens int32 [n], and the positions int64 [turns] where the turns begin.

    Raises:
        ConfigError: The vocabulary has too few marks.
    """
    if len(ratings) and ATTRIBUTE + len(ratings) > vocab.num_sentinels:
        raise ConfigError(
            f"a conversation with {len(ratings)} ratings needs {ATTRIBUTE + len(ratings)} marks, the "
            f"vocabulary has {vocab.num_sentinels}"
        )
    marks: list[int] = []
    for attribute, rating in enumerate(ratings):
        if rating is not None:
            marks.append(vocab.mark(ATTRIBUTE + attribute))
            marks.append(vocab.mark(RATING + rating))
    pieces = [*(np.append(turn, vocab.sep) for turn in turns[:-1]), np.append(marks, turns[-1])]
    sizes = np.array([len(piece) for piece in pieces], np.int64)
    return np.concatenate(pieces).astype(np.int32), np.cumsum(sizes) - sizes


def split_ratings(turn: np.ndarray, vocab: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Split a turn into its text and its ratings int64 [ratings, 2] of (attribute index, rating)."""
    if not vocab.num_sentinels:
        return turn, np.zeros((0, 2), np.int64)
    # Marks are consecutive ids and stand before the text, so that the first other id ends them.
    numbers = turn.astype(np.int64) - vocab.mark(0)
    size = int(np.argmin(np.append((numbers >= 0) & (numbers < vocab.num_sentinels), False)))
    return turn[size:], numbers[:size].reshape(-1, 2) - np.array([ATTRIBUTE, RATING])
