"""How a conversation is written as tokens: what stands between its turns, and what its last one was rated.

Turn sep turn sep turn; in front of a last turn that was rated, for each rated attribute its mark and the
rating's. An objective puts the mark RESPONSE before the turn that it predicts.
"""

from collections.abc import Sequence

import numpy as np

from tlx.base.errors import ConfigError
from tlx.text.vocabulary import Vocabulary

# Numbers of marks (Vocabulary.mark): ratings 0 and 1 follow each other, attributes count from the last.
RESPONSE, RATING, ATTRIBUTE = 0, 1, 3


def conversation(
    turns: Sequence[np.ndarray], ratings: Sequence[int | None], vocab: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32 [n], where turns begin in it int64 [turns]); a rating is 0, 1 or None for not rated.

    ConfigError where the vocabulary has too few marks.
    """
    if len(ratings) and ATTRIBUTE + len(ratings) > vocab.num_sentinels:
        raise ConfigError(
            f"a conversation with {len(ratings)} ratings needs {ATTRIBUTE + len(ratings)} marks, the "
            f"vocabulary has {vocab.num_sentinels}"
        )
    marks = [
        vocab.mark(number)
        for attribute, rating in enumerate(ratings)
        if rating is not None
        for number in (ATTRIBUTE + attribute, RATING + rating)
    ]
    pieces = [*(np.append(turn, vocab.sep) for turn in turns[:-1]), np.append(marks, turns[-1])]
    sizes = np.array([len(piece) for piece in pieces], np.int64)
    return np.concatenate(pieces).astype(np.int32), np.cumsum(sizes) - sizes


def split_ratings(turn: np.ndarray, vocab: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(a turn's text, int [r, 2]: numbers of the attributes that were rated, and their ratings)."""
    if not vocab.num_sentinels:
        return turn, np.zeros((0, 2), np.int64)
    numbers = turn.astype(np.int64) - vocab.mark(0)
    size = int(np.argmin(np.append((numbers >= 0) & (numbers < vocab.num_sentinels), False)))
    return turn[size:], numbers[:size].reshape(-1, 2) - np.array([ATTRIBUTE, RATING])
