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
tokens is taken). Special tokens belong to no word, n-grams run over them.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.objectives.shared.base import ObjectiveSpec


@dataclasses.dataclass(frozen=True)
class Masking:
    """How many tokens are predicted, and what the model sees in their place.

    `max_predictions` caps the targets of a row (BERT: 20 at length 128); None is no cap. `copies`: 0 draws
    new masks each time a text comes by, n makes n masked versions of the data and repeats them (BERT: 10).
    """

    masking_rate: float = 0.15
    mask_token_fraction: float = 0.8
    random_token_fraction: float = 0.1
    max_predictions: int | None = None
    recipe: Literal["bert", "roberta"] = "bert"
    unit: Literal["token", "word", "ngram"] = "token"
    max_ngram: int = 3
    copies: int = 0

    def validate(self) -> None:
        """Raises ConfigError for a rate outside (0, 1], shares that exceed one, or an unknown choice."""
        if not 0 < self.masking_rate <= 1:
            raise ConfigError(f"objective.masking_rate = {self.masking_rate} must be above 0 and at most 1")
        check_shares(self)
        if self.max_predictions is not None and self.max_predictions < 1:
            raise ConfigError(f"objective.max_predictions = {self.max_predictions} must be at least 1")
        for name, legal in (("recipe", ("bert", "roberta")), ("unit", ("token", "word", "ngram"))):
            if getattr(self, name) not in legal:
                raise ConfigError(one_of(f"objective.{name}", getattr(self, name), legal))
        if self.recipe == "roberta" and self.unit != "token":
            raise ConfigError(f"objective.unit = {self.unit!r}: the recipe 'roberta' draws tokens")
        if self.max_ngram < 1 or self.copies < 0:
            raise ConfigError(
                f"objective.max_ngram = {self.max_ngram} must be at least 1 and "
                f"objective.copies = {self.copies} not negative"
            )


def check_shares(config: Any) -> None:
    """ConfigError where `mask_token_fraction` and `random_token_fraction` are no shares of one whole."""
    for name in ("mask_token_fraction", "random_token_fraction"):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"objective.{name} = {getattr(config, name)} must lie in 0..1")
    if config.mask_token_fraction + config.random_token_fraction > 1:
        raise ConfigError(
            f"objective.random_token_fraction = {config.random_token_fraction} must be at most "
            f"1 - objective.mask_token_fraction = {1 - config.mask_token_fraction:g}"
        )


def num_predictions(length: int, config: Masking) -> int:
    """The most targets in a row of `length` tokens, cls and sep included: with the recipe bert exactly."""
    wanted = max(1, round(length * config.masking_rate))
    if config.recipe == "roberta":
        wanted = min(int(length * config.masking_rate) + 1, length)
    return wanted if config.max_predictions is None else min(config.max_predictions, wanted)


def chosen_positions(
    rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec, config: Masking
) -> np.ndarray:
    """The targets among the `tokens` of a row without its padding, ascending."""
    length = len(tokens)
    if config.recipe == "roberta":
        count = min(int(length * config.masking_rate + rng.random()), num_predictions(length, config))
        return np.sort(rng.choice(length, count, replace=False, shuffle=False)) if length else _NONE
    candidates = np.flatnonzero(~spec.vocab.special[tokens])
    count = min(num_predictions(length, config), len(candidates))
    if config.unit == "token":
        return np.sort(rng.choice(candidates, count, replace=False, shuffle=False))
    begins = word_begins(candidates, tokens, spec)
    if config.unit == "word":
        places = _words(rng, np.diff(begins), count)
        return candidates[np.sort(_concatenated(begins[:-1][places], begins[1:][places]))]
    return candidates[_ngrams(rng, begins, count, config.max_ngram)]


_NONE = np.zeros(0, np.int64)


def word_begins(candidates: np.ndarray, tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """Where words begin in `candidates` (places of the ordinary tokens), and behind them its length."""
    begins = np.ones(len(candidates), bool)
    if spec.starts_word is not None and len(candidates):
        begins[1:] = spec.starts_word[tokens[candidates[1:]]] | (np.diff(candidates) > 1)
    return np.append(np.flatnonzero(begins), len(candidates))


def hide(
    rng: np.random.Generator, tokens: np.ndarray, places: np.ndarray, spec: ObjectiveSpec, config: Any
) -> np.ndarray:
    """`tokens` at `places`: mask, a random id or unchanged, by the fractions of `config`."""
    vocab, count = spec.vocab, len(places)
    shown = tokens.copy()
    draw = rng.random(count)
    if getattr(config, "recipe", "bert") == "roberta":
        ordinary = np.flatnonzero(~vocab.special).astype(np.int32)
        random_ids = ordinary[rng.integers(0, len(ordinary), count)]
    else:
        random_ids = rng.integers(0, vocab.size, count, dtype=np.int32)
    replaced = np.where(
        draw < config.mask_token_fraction + config.random_token_fraction, random_ids, tokens[places]
    )
    shown[places] = np.where(draw < config.mask_token_fraction, vocab.mask, replaced)
    return shown


def _words(rng: np.random.Generator, sizes: np.ndarray, count: int) -> np.ndarray:
    """Words in random order, each taken if it still fits into `count` tokens."""
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


def _ngrams(rng: np.random.Generator, begins: np.ndarray, count: int, longest: int) -> np.ndarray:
    """Indices of at most `count` candidates in n-grams of words, ascending."""
    num_words = len(begins) - 1
    weights = np.cumsum(1 / np.arange(1, longest + 1))
    order = rng.permutation(num_words)
    # Near the end fewer words are left than n, as in albert: the n-gram is what is there.
    drawn = np.searchsorted(weights[:-1], weights[-1] * rng.random(num_words), side="right") + 1
    covered, missing, edges = bytearray(int(begins[-1])), count, begins.tolist()
    for first, n in zip(order.tolist(), drawn.tolist(), strict=True):
        if missing == 0:
            break
        start = edges[first]
        while n and (stop := edges[min(first + n, num_words)]) - start > missing:
            n -= 1
        if n == 0 or any(covered[start:stop]):
            continue
        covered[start:stop] = b"\x01" * (stop - start)
        missing -= stop - start
    return np.flatnonzero(np.frombuffer(covered, np.uint8))


def _concatenated(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """All integers of the ranges starts[i]..stops[i], one range after the other."""
    sizes = stops - starts
    offsets = np.repeat(starts - np.cumsum(sizes) + sizes, sizes)
    return offsets + np.arange(len(offsets))
