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
  token masking       the same with `spans = "mask"`: single words, each of their tokens masked; one draw decides
                      whether a word shows random ids
  token deletion      the same with `spans = "delete"`: single words, gone
rotation              with probability `rotate` the text starts at an offset uniform in 1..n-1 of the n
                      tokens (bos and eos counted, and left where they are)

Words are what spec.starts_word says; of a word that began before the row nothing is a start. The paper
describes tokens, and a rotation to a uniformly chosen one; code and released models are followed here.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.arrays import text_of
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays
from tlx.text.frames import Frame

SPANS = ("infill", "mask", "delete")


@dataclasses.dataclass(frozen=True)
class BART:
    """Fractions of each kind of noise; the defaults are those of the published models."""

    name: str = "bart"
    """Name in the table of objectives."""
    mask_fraction: float = 0.3
    """Fraction of the words in spans."""
    spans: Literal["infill", "mask", "delete"] = "infill"
    """Replacement of spans: one mask ("infill"), a mask for each token ("mask"), or nothing ("delete")."""
    mask_draw: Literal["word", "token"] = "word"
    """Unit of the draw of random ids in place of masks, for spans "mask": "word", as fairseq has it, whose tokens are
    all masks or all random, or "token"."""
    poisson_lambda: float = 3.0
    """Mean length of an infilled span in words, above 0."""
    random_token_fraction: float = 0.1
    """Fraction of the masks that are shown as random ids."""
    permute_fraction: float = 1.0
    """Fraction of the sentences that change places."""
    rotate_fraction: float = 0.0
    """Fraction of the rows that are rotated."""
    insert_fraction: float = 0.0
    """Masks inserted anywhere, as a fraction of the row's tokens."""

    def validate(self) -> None:
        """Raise ConfigError for shares outside 0..1."""
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


def text_with_ends(window: Window, spec: ObjectiveSpec) -> np.ndarray:
    """Return bos, the window's text, eos; nothing where there is no text."""
    text = text_of(window)
    if not len(text):
        return np.zeros(0, np.int32)
    tokens = np.empty(len(text) + 2, np.int32)
    tokens[0] = spec.vocab.bos
    tokens[1:-1] = text
    tokens[-1] = spec.vocab.eos
    return tokens


def add_noise(rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """Add the noise.

    Args:
        rng: Random generator of the row.
        tokens: int32, bos, text, eos.
        spec: What examples depend on.

    Returns:
        What the encoder reads, at most spec.length tokens.
    """
    config = spec.config
    if config.permute_fraction:
        tokens = permute_sentences(rng, tokens, spec)
    if config.mask_fraction:
        tokens = mask_spans(rng, tokens, spec)
    if config.insert_fraction:
        tokens = insert_masks(rng, tokens, math.ceil(len(tokens) * config.insert_fraction), spec)
    if config.rotate_fraction and rng.random() < config.rotate_fraction:
        offset = int(rng.integers(1, max(len(tokens) - 1, 1) + 1))
        tokens = np.concatenate([tokens[:1], tokens[offset:-1], tokens[1:offset], tokens[-1:]])
    if len(tokens) > spec.length:  # spans of nothing may add more than the others took away: rare
        tokens = np.append(tokens[: spec.length - 1], spec.vocab.eos).astype(np.int32)
    return tokens


def permute_sentences(rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """Permute the sentences.

    Args:
        rng: Random generator of the row.
        tokens: int32, bos, text, eos.
        spec: What examples depend on; without `ends_sentence` the tokens stay as they are.

    Returns:
        The tokens, bos and eos where they were.
    """
    if spec.ends_sentence is None:
        return tokens
    ends = spec.ends_sentence[tokens[1:-1]]
    ends[-1:] = True
    stops = np.flatnonzero(ends & ~np.append(False, ends[:-1])) + 1
    starts = np.append(0, stops[:-1])
    count = len(stops)
    order = np.arange(count)
    chosen = rng.permutation(count)[: math.ceil(count * spec.config.permute_fraction)]
    order[chosen] = chosen[rng.permutation(len(chosen))]
    sizes = (stops - starts)[order]
    shift = starts[order] - (np.cumsum(sizes) - sizes)
    source = np.arange(len(ends))  # what ends the row after the last stop stays there
    source[: stops[-1]] += np.repeat(shift, sizes)
    return np.concatenate([tokens[:1], tokens[1:-1][source], tokens[-1:]])


def mask_spans(rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """Replace spans of words by masks, or delete them.

    Args:
        rng: Random generator of the row.
        tokens: int32, bos, text, eos.
        spec: What examples depend on.

    Returns:
        The tokens that are left, bos and eos among them.
    """
    config = spec.config
    begins = np.ones(len(tokens), bool) if spec.starts_word is None else spec.starts_word[tokens]
    words = np.flatnonzero(begins[1:-1]) + 1
    budget = math.ceil(len(words) * config.mask_fraction)
    if budget == 0:
        return tokens
    num_inserted = 0
    lengths = np.ones(budget, np.int64)
    if config.spans == "infill":
        drawn = span_lengths(rng, budget, config.poisson_lambda)
        lengths = drawn[drawn > 0]
        num_inserted = len(drawn) - len(lengths)
    first = rng.permutation(len(words))[: len(lengths)]
    starts = words[first]
    stops = np.append(words, len(tokens) - 1)[np.minimum(first + lengths, len(words))]
    result = tokens.copy()
    if config.spans == "mask":
        positions = np.flatnonzero(covered(starts, stops, len(tokens)))
        if config.mask_draw == "token":
            result[positions] = mask_fillers(rng, len(positions), spec)
        else:
            order = np.argsort(starts)
            sizes = (stops - starts)[order]
            random_words = rng.random(len(starts)) < config.random_token_fraction
            random_ids = rng.integers(1, spec.vocab.size, len(positions))
            result[positions] = np.where(np.repeat(random_words, sizes), random_ids, spec.vocab.mask)
        return result
    result[starts] = mask_fillers(rng, len(starts), spec)
    gone = covered(starts if config.spans == "delete" else starts + 1, stops, len(tokens))
    return insert_masks(rng, result[~gone], num_inserted, spec) if num_inserted else result[~gone]


def span_lengths(rng: np.random.Generator, budget: int, mean: float) -> np.ndarray:
    """Draw lengths from a Poisson distribution until they fill a budget.

    Args:
        rng: Random generator of the row.
        budget: Sum of the lengths.
        mean: Mean of the distribution.

    Returns:
        Lengths (0 included) whose sum is `budget`; the last is trimmed to it.
    """
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
    """Return Poisson's distribution function, cut as fairseq cuts it: where a probability is below 1e-7."""
    masses = []
    mass = math.exp(-mean)
    for k in range(1, 129):
        masses.append(mass)
        mass *= mean / k
        if masses[-1] < 1e-7:
            break
    sums = np.cumsum(masses)
    return (sums / sums[-1])[:-1]


def covered(starts: np.ndarray, stops: np.ndarray, length: int) -> np.ndarray:
    """Mark the indices that any of some ranges covers.

    Args:
        starts: int [n], first index of each range.
        stops: int [n], the index after each range.
        length: Length of the result.

    Returns:
        bool [length], True in any of the ranges.
    """
    edges = np.bincount(starts, minlength=length + 1) - np.bincount(stops, minlength=length + 1)
    return np.cumsum(edges)[:length] > 0


def mask_fillers(rng: np.random.Generator, count: int, spec: ObjectiveSpec) -> np.ndarray:
    """Draw what is shown for spans.

    Args:
        rng: Random generator of the row.
        count: How many.
        spec: What examples depend on.

    Returns:
        `count` masks, some of them replaced by random ids.
    """
    draw = rng.random(count)
    random_ids = rng.integers(1, spec.vocab.size, count)
    return np.where(draw < spec.config.random_token_fraction, random_ids, spec.vocab.mask)


def insert_masks(rng: np.random.Generator, tokens: np.ndarray, count: int, spec: ObjectiveSpec) -> np.ndarray:
    """Insert masks anywhere between bos and eos.

    Args:
        rng: Random generator of the row.
        tokens: int32, bos, text, eos.
        count: How many; ceil(count * random_token_fraction) of them are random ids.
        spec: What examples depend on.

    Returns:
        int32 [len(tokens) + count].
    """
    size = len(tokens) + count
    positions = rng.permutation(size - 2)[:count] + 1
    num_random = math.ceil(count * spec.config.random_token_fraction)
    result = np.empty(size, np.int32)
    old = np.ones(size, bool)
    old[positions] = False
    result[positions[:num_random]] = rng.integers(1, spec.vocab.size, num_random)
    result[positions[num_random:]] = spec.vocab.mask
    result[old] = tokens
    return result


class BARTObjective(Objective):
    """BART's denoising."""

    config_class = BART
    module = EncoderDecoderModule
    kinds = ("encoder_decoder",)
    restores_masks = True

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return bos before a text, eos after it; the decoder starts from eos and writes bos first."""
        vocab = spec.vocab
        bos = (vocab.bos,)
        eos = (vocab.eos,)
        return Frame(before=bos, between=eos, after=eos, start=eos, begin=bos, end=eos, place=-1)

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row in which nothing is damaged."""
        config = dataclasses.replace(
            spec.config, mask_fraction=0.0, permute_fraction=0.0, rotate_fraction=0.0, insert_fraction=0.0
        )
        return super().clean_example(texts, dataclasses.replace(spec, config=config), languages)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return packed windows that leave room for bos and eos, and for inserted masks."""
        num_inserted = math.ceil(spec.length * spec.config.insert_fraction)
        if spec.length - num_inserted < 4:
            raise ConfigError(
                f"data.sequence_length = {spec.length} must be at least 4 for bart, and leave 4 tokens "
                "beside those that objective.insert_fraction puts in"
            )
        return WindowSpec(length=spec.length - 2 - num_inserted)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a damaged text and its original.

        window: Packed text.

        Returns:
            Encoder input, decoder input, targets and weights, [length] each.
        """
        lengths = (spec.length, spec.length)
        text = text_with_ends(window, spec)
        if len(text) == 0:
            return encoder_decoder_arrays(text, text, lengths, spec.vocab)
        return encoder_decoder_arrays(
            add_noise(rng, text, spec), text, lengths, spec.vocab, start=spec.vocab.eos
        )


OBJECTIVE = BARTObjective()
