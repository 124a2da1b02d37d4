"""Choice by likelihood: scores of texts, length normalization, the boundary of prompt and continuation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tlx.base.errors import ConfigError, one_of


class TextScore(NamedTuple):
    """Likelihood of a text."""

    log_likelihood: float
    """Natural logarithm of the probability of the whole text, nats."""
    bits_per_byte: float
    """-log2 of the probability over the bytes of the text; nan for a text without bytes."""
    num_tokens: int
    """Number of tokens, special ones included."""
    num_bytes: int
    """Number of bytes, to which special tokens add none."""


class RankedChoice(NamedTuple):
    """The best of given continuations, and the scores of all."""

    text: str
    """The best continuation."""
    best_index: int
    """Its index among the choices."""
    scores: list[TextScore]
    """The score of each choice."""


# Divisors of a log-likelihood before choices are compared.
NORMS: dict[str, Callable[[TextScore], int]] = {
    "total": lambda score: 1,
    "tokens": lambda score: max(1, score.num_tokens),
    "bytes": lambda score: max(1, score.num_bytes),
}


def normalized_scores(scores: Sequence[TextScore], by: str) -> list[float]:
    """Return length-normalized log-likelihoods; raise ConfigError for an unknown `by`."""
    if by not in NORMS:
        raise ConfigError(one_of("by", by, NORMS))
    return [score.log_likelihood / NORMS[by](score) for score in scores]


def best_of(texts: Sequence[str], scores: Sequence[TextScore], by: str) -> RankedChoice:
    """Return the text with the highest normalized log-likelihood; the first of equals.

    Args:
        texts: The choices.
        scores: The score of each.
        by: A key of NORMS.

    Returns:
        The best text, its index and all scores.

    Raises:
        ConfigError: `by` is unknown.
    """
    values = normalized_scores(scores, by)
    best = values.index(max(values))
    return RankedChoice(texts[best], best, list(scores))


def continuations(
    encode: Callable[[str], list[int]], prompt: str, texts: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Tokenize a prompt together with each of its continuations.

    White space at the prompt's end goes to the continuations, where most vocabularies have it. A text that
    would merge with the prompt's last token is tokenized separately.

    Args:
        encode: Text to token ids.
        prompt: The prompt.
        texts: Its continuations.

    Returns:
        (ids of the prompt, ids of each continuation).
    """
    stripped = prompt.rstrip()
    spaces = prompt[len(stripped) :]
    prompt_ids = encode(stripped)
    continuation_ids = []
    for text in texts:
        continuation = spaces + text
        ids = encode(stripped + continuation)
        has_boundary = ids[: len(prompt_ids)] == prompt_ids and len(ids) > len(prompt_ids)
        continuation_ids.append(ids[len(prompt_ids) :] if has_boundary else encode(continuation))
    return prompt_ids, continuation_ids
