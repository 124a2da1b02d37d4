"""Which tokens of a row are hidden, and what the model sees in their place: shared by masked objectives.

Counts and candidates, by recipe:

    bert       min(max_predictions, max(1, round(n * masking_rate))) of the n tokens, cls and sep counted,
               halves to even; never a special token; random ids from the whole vocabulary
               (google-research/bert create_pretraining_data.py: 18 of 123)
    roberta    floor(n * masking_rate + U), U uniform in [0, 1), of all n tokens, special ones too; random ids
               are ordinary tokens (fairseq data/mask_tokens_dataset.py)

What is drawn, by unit: single tokens; whole words (bert's do_whole_word_mask: a word that would exceed the
count is passed over); or n-grams of whole words (google-research/albert: a start at random, n in
1..max_ngram with P(n) ~ 1/n, shorter ones tried where the count would be exceeded, none where one of its
tokens is taken). Special tokens belong to no word, n-grams run over them. Unit "window" is DeBERTa's (microsoft/
DeBERTa apps/tasks/mlm_task.py, n-grams of 1): one token of each window of int(1 / masking_rate) tokens, 6 of .15,
from the left until the count is reached, so that the end of a full row is never masked (12 of 126 tokens).
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from tlx.base.errors import ConfigError
from tlx.objectives.shared.base import ObjectiveSpec


@dataclasses.dataclass(frozen=True)
class Masking:
    """Number of predicted tokens, and their replacements in the input."""

    masking_rate: float = 0.15
    """Fraction of a row's tokens to predict, above 0 and at most 1."""
    mask_token_fraction: float = 0.8
    """Fraction of the predicted tokens that are shown as mask."""
    random_token_fraction: float = 0.1
    """Fraction of the predicted tokens that are shown as a random id; the others are shown as they are."""
    max_predictions: int | None = None
    """Most targets of a row (BERT: 20 at length 128); None is no limit."""
    recipe: Literal["bert", "roberta"] = "bert"
    """Rules of counts and candidates: those of "bert" or "roberta"."""
    unit: Literal["token", "word", "ngram", "window"] = "token"
    """Unit of masking: "token", "word" (whole words), "ngram" (of whole words) or "window" (a token of each)."""
    max_ngram: int = 3
    """Longest n-gram in words, for unit "ngram"."""
    copies: int = 0
    """Number of masked versions of the data, repeated in turn (BERT: 10); 0 draws new masks every epoch."""

    def validate(self) -> None:
        """Raise ConfigError for a rate outside (0, 1] or shares that exceed one."""
        if not 0 < self.masking_rate <= 1:
            raise ConfigError(f"objective.masking_rate = {self.masking_rate} must be above 0 and at most 1")
        check_shares(self)
        if self.max_predictions is not None and self.max_predictions < 1:
            raise ConfigError(f"objective.max_predictions = {self.max_predictions} must be at least 1")
        if self.recipe == "roberta" and self.unit != "token":
            raise ConfigError(f"objective.unit = {self.unit!r}: the recipe 'roberta' draws tokens")
        if self.max_ngram < 1 or self.copies < 0:
            raise ConfigError(
                f"objective.max_ngram = {self.max_ngram} must be at least 1 and "
                f"objective.copies = {self.copies} not negative"
            )


def check_shares(config: Any) -> None:
    """Raise ConfigError unless the fractions of mask and random tokens add up to at most 1."""
    for name in ("mask_token_fraction", "random_token_fraction"):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"objective.{name} = {getattr(config, name)} must lie in 0..1")
    if config.mask_token_fraction + config.random_token_fraction > 1:
        raise ConfigError(
            f"objective.random_token_fraction = {config.random_token_fraction} must be at most "
            f"1 - objective.mask_token_fraction = {1 - config.mask_token_fraction:g}"
        )


def num_predictions(length: int, config: Masking) -> int:
    """Return the most targets of a row of `length` tokens, cls and sep included; the exact count for bert."""
    wanted = max(1, round(length * config.masking_rate))
    if config.recipe == "roberta":
        wanted = min(int(length * config.masking_rate) + 1, length)
    return wanted if config.max_predictions is None else min(config.max_predictions, wanted)


def chosen_positions(
    rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec, config: Masking
) -> np.ndarray:
    """Choose the positions to predict.

    Args:
        rng: Random generator of the row.
        tokens: int32 [n], a row without its padding.
        spec: What examples depend on.
        config: How many tokens are chosen, and by which unit.

    Returns:
        int positions in 0..n-1, ascending.
    """
    length = len(tokens)
    if config.recipe == "roberta":
        count = min(int(length * config.masking_rate + rng.random()), num_predictions(length, config))
        return np.sort(rng.choice(length, count, replace=False, shuffle=False)) if length else _NONE
    candidates = np.flatnonzero(~spec.vocab.special[tokens])
    count = min(num_predictions(length, config), len(candidates))
    if config.unit == "window":
        return candidates[one_of_each_window(rng, len(candidates), count, config.masking_rate)]
    if config.unit == "token":
        return np.sort(rng.choice(candidates, count, replace=False, shuffle=False))
    edges = word_edges(candidates, tokens, spec)
    if config.unit == "word":
        words = _draw_words(rng, np.diff(edges), count)
        return candidates[np.sort(_concatenated_ranges(edges[:-1][words], edges[1:][words]))]
    return candidates[_ngrams(rng, edges, count, config.max_ngram)]


def one_of_each_window(
    rng: np.random.Generator, num_candidates: int, count: int, masking_rate: float
) -> np.ndarray:
    """Draw one candidate of each window of int(1 / masking_rate) of them, the last one perhaps shorter.

    Args:
        rng: Random generator of the row.
        num_candidates: Number of candidates.
        count: Most indices that are returned.
        masking_rate: Fraction of the row's tokens to predict.

    Returns:
        Indices of the candidates of the first `count` windows, ascending.
    """
    size = int(1 / masking_rate)
    begins = np.arange(0, num_candidates, size)
    return (begins + rng.integers(0, np.minimum(size, num_candidates - begins)))[:count]


_NONE = np.zeros(0, np.int64)


def word_edges(candidates: np.ndarray, tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """Find where words begin among the ordinary tokens of a row.

    Args:
        candidates: int [n], positions of the ordinary tokens.
        tokens: int32 ids of the row.
        spec: What examples depend on; without `starts_word` every token is a word.

    Returns:
        Indices into `candidates` at which words begin, ascending, and n at the end.
    """
    starts = np.ones(len(candidates), bool)
    if spec.starts_word is not None and len(candidates):
        # A special token between two candidates ends a word.
        starts[1:] = spec.starts_word[tokens[candidates[1:]]] | (np.diff(candidates) > 1)
    return np.append(np.flatnonzero(starts), len(candidates))


def hide(
    rng: np.random.Generator, tokens: np.ndarray, positions: np.ndarray, spec: ObjectiveSpec, config: Any
) -> np.ndarray:
    """Replace the tokens to predict by mask, by a random id, or by themselves.

    Args:
        rng: Random generator of the row.
        tokens: int32 [T].
        positions: Positions to predict.
        spec: What examples depend on.
        config: Has `mask_token_fraction`, `random_token_fraction` and perhaps `recipe`, as Masking.

    Returns:
        int32 [T], a copy.
    """
    vocab = spec.vocab
    count = len(positions)
    shown = tokens.copy()
    draw = rng.random(count)
    if getattr(config, "recipe", "bert") == "roberta":
        ordinary = np.flatnonzero(~vocab.special).astype(np.int32)
        random_ids = ordinary[rng.integers(0, len(ordinary), count)]
    else:
        random_ids = rng.integers(0, vocab.size, count, dtype=np.int32)
    replaced = np.where(
        draw < config.mask_token_fraction + config.random_token_fraction, random_ids, tokens[positions]
    )
    shown[positions] = np.where(draw < config.mask_token_fraction, vocab.mask, replaced)
    return shown


def _draw_words(rng: np.random.Generator, sizes: np.ndarray, count: int) -> np.ndarray:
    """Draw words in random order, each taken if it still fits into `count` tokens."""
    order = rng.permutation(len(sizes))
    ends = np.cumsum(sizes[order])
    fit = int(np.searchsorted(ends, count, side="right"))
    taken = order[:fit].tolist()
    missing = count - (int(ends[fit - 1]) if fit else 0)
    for word, size in zip(order[fit:].tolist(), sizes[order[fit:]].tolist(), strict=True):
        if missing == 0:
            break
        if size <= missing:
            taken.append(word)
            missing -= size
    return np.array(taken, np.int64)


def _ngrams(rng: np.random.Generator, edges: np.ndarray, count: int, longest: int) -> np.ndarray:
    """Return the indices of at most `count` candidates in n-grams of words, ascending."""
    num_words = len(edges) - 1
    weights = np.cumsum(1 / np.arange(1, longest + 1))
    order = rng.permutation(num_words)
    # Near the end fewer words are left than n, as in albert: the n-gram is what is there.
    drawn = np.searchsorted(weights[:-1], weights[-1] * rng.random(num_words), side="right") + 1
    # Python's bytes and lists are faster than numpy's scalars in this loop.
    covered = bytearray(int(edges[-1]))
    missing = count
    word_starts = edges.tolist()
    for first, n in zip(order.tolist(), drawn.tolist(), strict=True):
        if missing == 0:
            break
        start = word_starts[first]
        stop = word_starts[min(first + n, num_words)]
        while n and stop - start > missing:
            n -= 1
            stop = word_starts[min(first + n, num_words)]
        if n == 0 or any(covered[start:stop]):
            continue
        covered[start:stop] = b"\x01" * (stop - start)
        missing -= stop - start
    return np.flatnonzero(np.frombuffer(covered, np.uint8))


def _concatenated_ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return all integers of the ranges starts[i]..stops[i], one range after the other."""
    sizes = stops - starts
    offsets = np.repeat(starts - np.cumsum(sizes) + sizes, sizes)
    return offsets + np.arange(len(offsets))
