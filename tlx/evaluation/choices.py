"""Choices by likelihood: what each scores, how long and short ones are compared, where a prompt ends."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tlx.base.errors import ConfigError, one_of


class TextScore(NamedTuple):
    """How likely a text is."""

    log_likelihood: float  # nats, of the whole text
    bits_per_byte: float
    num_tokens: int
    num_bytes: int


class RankedChoice(NamedTuple):
    """The best of given continuations, and what each of them scores."""

    text: str
    best_index: int
    scores: list[TextScore]


# What a log-likelihood may be divided by before choices are compared.
NORMS: dict[str, Callable[[TextScore], int]] = {
    "total": lambda score: 1,
    "tokens": lambda score: max(1, score.num_tokens),
    "bytes": lambda score: max(1, score.num_bytes),
}


def normalized_scores(scores: Sequence[TextScore], by: str) -> list[float]:
    """The log-likelihoods as they are compared; ConfigError for an unknown `by`."""
    if by not in NORMS:
        raise ConfigError(one_of("by", by, NORMS))
    return [score.log_likelihood / NORMS[by](score) for score in scores]


def best_of(texts: Sequence[str], scores: Sequence[TextScore], by: str) -> RankedChoice:
    """The best text by its score; the first of equals."""
    values = normalized_scores(scores, by)
    best = values.index(max(values))
    return RankedChoice(texts[best], best, list(scores))


def continuations(
    encode: Callable[[str], list[int]], prompt: str, texts: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Ids of a prompt and of each text behind it, cut into tokens together.

    White space at the prompt's end goes to the texts, where most vocabularies have it. A text that would
    become part of the prompt's last token is cut by itself.
    """
    kept = prompt.rstrip()
    before, found = encode(kept), []
    for text in texts:
        rest = prompt[len(kept) :] + text
        whole = encode(kept + rest)
        together = whole[: len(before)] == before and len(whole) > len(before)
        found.append(whole[len(before) :] if together else encode(rest))
    return before, found
