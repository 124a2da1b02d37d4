"""Answers found, not written: that of the stored message whose vector is nearest.

Shapes: Q stored messages.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tlx.api.embedding import EmbeddingMixin
from tlx.base.errors import ConfigError

_BATCH = 32


class Found(NamedTuple):
    """A stored answer."""

    answer: str
    """The answer."""
    message: str
    """The stored message that it answers."""
    similarity: float
    """Cosine of the two messages' vectors, -1 to 1."""


class AnswerIndex:
    """Messages with their answers, found by the vectors that a model gives the messages."""

    def __init__(self, lm: EmbeddingMixin, messages: Sequence[str], answers: Sequence[str]):
        """Compute the vectors of all messages.

        Args:
            lm: A loaded model; one of sentence-transformers is made for it.
            messages: The messages.
            answers: The answer to each.

        Raises:
            ConfigError: There is no message, or one is too long for the model.
        """
        if not messages or len(messages) != len(answers):
            raise ConfigError(f"{len(messages)} messages need as many answers, at least one")
        self._lm = lm
        self._messages = list(messages)
        self._answers = list(answers)
        # Sorted by length, so that little of a batch is padding.
        order = sorted(range(len(messages)), key=lambda i: len(messages[i]))
        vectors: dict[int, np.ndarray] = {}
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            vectors |= dict(zip(rows, lm.embed([messages[row] for row in rows]), strict=True))
        self._vectors_QD = _normalised(np.stack([vectors[row] for row in range(len(messages))]))

    def find(self, message: str, top: int = 1) -> list[Found]:
        """Return the answers to the stored messages nearest to a message.

        Args:
            message: The message.
            top: Number of answers.

        Returns:
            The answers, the nearest message's first; of equals the first one stored.
        """
        similarities_Q = self._vectors_QD @ _normalised(self._lm.embed(message))
        order = np.argsort(-similarities_Q, kind="stable")[:top]
        return [Found(self._answers[i], self._messages[i], float(similarities_Q[i])) for i in order]


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
