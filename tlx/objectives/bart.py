"""BART's denoising: the encoder reads a text that was damaged in up to five ways, the decoder writes it.

A row is bos, text, eos, and so are the targets; the decoder starts from eos, as fairseq's does. The noise
is that of its denoising_dataset.py, in this order, each kind by its own share:

sentence permutation  of the sentences (ended by a piece of spec.ends_sentence, of several in a row by the
                      first, or by the end of the row) ceil(share * n), chosen at random, change places
infilling             ceil(ratio * words) words in spans of Poisson(lambda) words; each span becomes one
                      mask. Lengths are drawn until they fill that budget, the last is trimmed; spans of
                      no word insert a mask anywhere. Spans start at different words, but run into each
                      other: less than the budget is gone (27.2% of 98 words at 30%). A tenth of the masks
                      (`random_token_fraction`) shows a random id instead.
  token masking       the same with `spans = "mask"`: single words, each of their tokens masked
  token deletion      the same with `spans = "delete"`: single words, gone
rotation              with probability `rotate` the text starts at an offset uniform in 1..n-1 of the n
                      tokens (bos and eos counted, and left where they are)

Words are what spec.starts_word says; of a word that began before the row nothing is a start. The paper
describes tokens, and a rotation to a uniformly chosen one; code and released models are followed here.
"""

import dataclasses
import functools
import math
from typing import Literal

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays

SPANS = ("infill", "mask", "delete")


@dataclasses.dataclass(frozen=True)
class BART:
    """How much of each kind of noise; the defaults are those of the published models.

    mask_fraction: of the words. spans: what becomes of them. poisson_lambda: mean words of an infilled span.
    random_token_fraction: of the masks, shown as random ids. permute_fraction: of the sentences.
    rotate_fraction: of the rows. insert_fraction: masks put in anywhere, as a fraction of the row's tokens.
    """

    name: str = "bart"
    mask_fraction: float = 0.3
    spans: Literal["infill", "mask", "delete"] = "infill"
    poisson_lambda: float = 3.0
    random_token_fraction: float = 0.1
    permute_fraction: float = 1.0
    rotate_fraction: float = 0.0
    insert_fraction: float = 0.0

    def validate(self) -> None:
        """Raises ConfigError for an unknown kind of spans or shares outside 0..1."""
        if self.spans not in SPANS:
            raise ConfigError(one_of("objective.spans", self.spans, SPANS))
        for name in (
            "mask_fraction",
            "random_token_fraction",
            "permute_fraction",
            "rotate_fraction",
            "insert_fraction",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must lie in 0..1")
        if not self.poisson_lambda > 0:
            raise ConfigError(f"objective.poisson_lambda = {self.poisson_lambda} must be above 0")


def reads(spec: ObjectiveSpec) -> WindowSpec:
    """Packed windows that leave room for bos and eos, and for masks put in between."""
    inserted = math.ceil(spec.length * spec.config.insert_fraction)
    if spec.length - inserted < 4:
        raise ConfigError(
            f"data.sequence_length = {spec.length} must be at least 4 for bart, and leave 4 tokens beside "
            "those that objective.insert_fraction puts in"
        )
    return WindowSpec(length=spec.length - 2 - inserted)


def example(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
    """Encoder input, decoder input and targets, [length] each."""
    vocab, lengths = spec.vocab, (spec.length, spec.length)
    text = row(window, spec)
    if len(text) == 0:
        return encoder_decoder_arrays(text, text, lengths, vocab)
    return encoder_decoder_arrays(damaged(rng, text, spec), text, lengths, vocab, start=vocab.eos)


def row(window: Window, spec: ObjectiveSpec) -> np.ndarray:
    """bos, the window's text, eos; nothing where there is none."""
    num_text = int(np.count_nonzero(window.segments))
    tokens = np.empty(num_text + 2 if num_text else 0, np.int32)
    if num_text:
        tokens[0], tokens[1:-1], tokens[-1] = spec.vocab.bos, window.tokens[:num_text], spec.vocab.eos
    return tokens


def damaged(rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """What the encoder reads of bos, text, eos: at most spec.length tokens."""
    config, vocab = spec.config, spec.vocab
    if config.permute_fraction:
        tokens = permuted(rng, tokens, spec)
    if config.mask_fraction:
        tokens = masked(rng, tokens, spec)
    if config.insert_fraction:
        tokens = inserted(rng, tokens, math.ceil(len(tokens) * config.insert_fraction), spec)
    if config.rotate_fraction and rng.random() < config.rotate_fraction:
        offset = int(rng.integers(1, max(len(tokens) - 1, 1) + 1))
        tokens = np.concatenate([tokens[:1], tokens[offset:-1], tokens[1:offset], tokens[-1:]])
    if len(tokens) > spec.length:  # spans of nothing may add more than the others took away: rare
        tokens = np.append(tokens[: spec.length - 1], vocab.eos).astype(np.int32)
    return tokens


def permuted(rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """The tokens with their sentences in another order, bos and eos in place."""
    if spec.ends_sentence is None:
        return tokens
    ends = spec.ends_sentence[tokens[1:-1]]
    ends[-1:] = True
    stops = np.flatnonzero(ends & ~np.append(False, ends[:-1])) + 1
    begins = np.append(0, stops[:-1])
    count = len(stops)
    order = np.arange(count)
    chosen = rng.permutation(count)[: math.ceil(count * spec.config.permute_fraction)]
    order[chosen] = chosen[rng.permutation(len(chosen))]
    sizes = (stops - begins)[order]
    shift = begins[order] - (np.cumsum(sizes) - sizes)
    places = np.arange(len(ends))  # what ends the row after the last stop stays there
    places[: stops[-1]] += np.repeat(shift, sizes)
    return np.concatenate([tokens[:1], tokens[1:-1][places], tokens[-1:]])


def masked(rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """The tokens with spans of words replaced by masks, or gone."""
    config = spec.config
    begins = np.ones(len(tokens), bool) if spec.starts_word is None else spec.starts_word[tokens]
    words = np.flatnonzero(begins[1:-1]) + 1
    budget = math.ceil(len(words) * config.mask_fraction)
    if budget == 0:
        return tokens
    num_inserted, lengths = 0, np.ones(budget, np.int64)
    if config.spans == "infill":
        drawn = span_lengths(rng, budget, config.poisson_lambda)
        lengths = drawn[drawn > 0]
        num_inserted = len(drawn) - len(lengths)
    first = rng.permutation(len(words))[: len(lengths)]
    starts = words[first]
    stops = np.append(words, len(tokens) - 1)[np.minimum(first + lengths, len(words))]
    result = tokens.copy()
    if config.spans == "mask":
        hidden = covered(starts, stops, len(tokens))
        places = np.flatnonzero(hidden)
        result[places] = fillers(rng, len(places), spec)
        return result
    result[starts] = fillers(rng, len(starts), spec)
    gone = covered(starts if config.spans == "delete" else starts + 1, stops, len(tokens))
    return inserted(rng, result[~gone], num_inserted, spec) if num_inserted else result[~gone]


def span_lengths(rng: np.random.Generator, budget: int, mean: float) -> np.ndarray:
    """Lengths (0 included) whose sum is `budget`, the last trimmed to it."""
    drawn = _poisson(rng, budget, mean)
    while drawn.sum() < budget:
        drawn = np.append(drawn, _poisson(rng, budget, mean))
    sums = np.cumsum(drawn)
    last = int(np.searchsorted(sums, budget))
    drawn = drawn[: last + 1].copy()
    drawn[last] -= sums[last] - budget
    return drawn


def _poisson(rng: np.random.Generator, count: int, mean: float) -> np.ndarray:
    return np.searchsorted(_poisson_cumulative(mean), rng.random(count), side="right")


@functools.lru_cache(maxsize=8)
def _poisson_cumulative(mean: float) -> np.ndarray:
    """Poisson's distribution function, cut as fairseq cuts it: where a probability falls below 1e-7."""
    masses, mass = [], math.exp(-mean)
    for k in range(1, 129):
        masses.append(mass)
        mass *= mean / k
        if masses[-1] < 1e-7:
            break
    sums = np.cumsum(masses)
    return (sums / sums[-1])[:-1]


def covered(starts: np.ndarray, stops: np.ndarray, length: int) -> np.ndarray:
    """bool [length], True in any of the stretches starts[i]..stops[i]."""
    edges = np.bincount(starts, minlength=length + 1) - np.bincount(stops, minlength=length + 1)
    return np.cumsum(edges)[:length] > 0


def fillers(rng: np.random.Generator, count: int, spec: ObjectiveSpec) -> np.ndarray:
    """`count` masks, some of them random ids."""
    draw, ids = rng.random(count), rng.integers(1, spec.vocab.size, count)
    return np.where(draw < spec.config.random_token_fraction, ids, spec.vocab.mask)


def inserted(rng: np.random.Generator, tokens: np.ndarray, count: int, spec: ObjectiveSpec) -> np.ndarray:
    """The tokens with `count` more between bos and eos: masks, a fraction of them random ids."""
    size = len(tokens) + count
    places = rng.permutation(size - 2)[:count] + 1
    num_random = math.ceil(count * spec.config.random_token_fraction)
    result, old = np.empty(size, np.int32), np.ones(size, bool)
    old[places] = False
    result[places[:num_random]] = rng.integers(1, spec.vocab.size, num_random)
    result[places[num_random:]] = spec.vocab.mask
    result[old] = tokens
    return result


OBJECTIVE = Objective(BART, reads, example, EncoderDecoderModule, kinds=("encoder_decoder",))
