"""T5's span corruption: runs of text leave the encoder's input, the decoder writes them out.

Text w0..w8 with noise on w2 w3 and w7 w8 becomes, with sentinels s0, s1 counted down from the end of
the vocabulary,

    encoder  w0 w1 s0 w4 w5 w6 s1 eos          targets  s0 w2 w3 s1 w7 w8 eos

as google-research/text-to-text-transfer-transformer does it (t5/data/preprocessors.py,
random_spans_noise_mask and random_spans_helper): counts are rounded half to even in float32, both the
noise and the text between are cut by uniform compositions, a row starts with text and ends with noise,
and no sentinel closes the targets (the paper's figure 2 shows one, the code never writes it). As there,
a row is one piece of text even where it runs over the end of a document. Each row reads exactly the
number of tokens that fills the encoder, so nothing is padded or cut. The decoder starts from bos
(T5's pad in the same role: an imported T5 vocabulary says bos = pad).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.arrays import text_of
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Fraction of noise, and the mean length of its spans."""

    name: str = "span_corruption"
    """Name in the table of objectives."""
    noise_density: float = 0.15
    """Fraction of the tokens that are noise, between 0 and 1."""
    mean_noise_span_length: float = 3.0
    """Mean length of a run of noise in tokens, at least 1."""

    def validate(self) -> None:
        """Raise ConfigError for a density outside (0, 1) or a mean below one token."""
        if not 0 < self.noise_density < 1:
            raise ConfigError(f"objective.noise_density = {self.noise_density} must lie between 0 and 1")
        if not self.mean_noise_span_length >= 1:
            raise ConfigError(
                f"objective.mean_noise_span_length = {self.mean_noise_span_length} must be at least 1"
            )


def noise_counts(length: int, config: SpanCorruption) -> tuple[int, int]:
    """Return (noise tokens, noise spans) in `length` >= 2 tokens, rounded half to even in float32.

    In float64 the product .15 * 190 lies below 28.5 and rounds to 28; T5 computes 29.
    """
    num_noise = int(np.rint(np.float32(length) * np.float32(config.noise_density)))
    num_noise = min(max(num_noise, 1), length - 1)
    num_spans = max(int(np.rint(np.float32(num_noise) / np.float32(config.mean_noise_span_length))), 1)
    return num_noise, min(num_spans, length - num_noise)


def corrupted_lengths(length: int, config: SpanCorruption) -> tuple[int, int]:
    """Return (encoder tokens, target tokens) of `length` >= 2 raw tokens, with sentinels and eos."""
    num_noise, num_spans = noise_counts(length, config)
    return length - num_noise + num_spans + 1, num_noise + num_spans + 1


@functools.lru_cache(maxsize=64)
def raw_length(encoder_length: int, config: SpanCorruption) -> tuple[int, int]:
    """Return (raw tokens, target tokens) of the rows that fill an encoder of `encoder_length` tokens.

    T5's random_spans_helper: (512, density .15, mean 3) gives (568, 114). It also gives up one token
    where a density of .5 would make the targets longer than the inputs. Raises ConfigError below 3 tokens.
    """
    if encoder_length < 3:
        raise ConfigError(f"data.sequence_length = {encoder_length} must be at least 3 for span_corruption")
    length = 2
    while corrupted_lengths(length + 1, config)[0] <= encoder_length:
        length += 1
    inputs, targets = corrupted_lengths(length, config)
    if config.noise_density == 0.5 and targets > inputs:
        length -= 1
    return length, corrupted_lengths(length, config)[1]


def corrupt(
    rng: np.random.Generator, tokens: np.ndarray, spec: ObjectiveSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the noise out of a text of any length.

    Args:
        rng: Random generator of the row.
        tokens: int32 [n].
        spec: What examples depend on; its config is a SpanCorruption.

    Returns:
        Encoder input and targets: nothing from nothing, no noise in one token.
    """
    vocab = spec.vocab
    length = len(tokens)
    if length == 0:
        return tokens, tokens
    if length == 1:
        return np.array([tokens[0], vocab.eos]), np.array([vocab.sentinel(0), vocab.eos])
    num_noise, num_spans = noise_counts(length, spec.config)
    clean = composition(rng, length - num_noise, num_spans)
    noise = composition(rng, num_noise, num_spans)
    is_noise = np.repeat(np.arange(2 * num_spans) % 2 == 1, np.stack([clean, noise], axis=1).ravel())
    sentinels = vocab.sentinel(0) - np.arange(num_spans, dtype=np.int32)
    spans = np.arange(num_spans)
    before_noise = np.cumsum(clean) + spans
    before_targets = np.cumsum(noise) - noise + spans
    return (
        _interleave(sentinels, before_noise, tokens[~is_noise], vocab.eos),
        _interleave(sentinels, before_targets, tokens[is_noise], vocab.eos),
    )


def composition(rng: np.random.Generator, total: int, parts: int) -> np.ndarray:
    """Draw positive integers with a given sum, uniformly among all such lists.

    Args:
        rng: Random generator of the row.
        total: Their sum.
        parts: How many.

    Returns:
        int64 [parts].
    """
    cuts = np.zeros(parts + 1, np.int64)
    cuts[1:-1] = np.sort(rng.choice(total - 1, parts - 1, replace=False, shuffle=False)) + 1
    cuts[-1] = total
    return np.diff(cuts)


def _interleave(sentinels: np.ndarray, at: np.ndarray, text: np.ndarray, eos: int) -> np.ndarray:
    """Return `sentinels` at the indices `at`, `text` in the gaps in order, and eos at the end."""
    merged = np.empty(len(sentinels) + len(text) + 1, np.int32)
    gaps = np.ones(len(merged), bool)
    gaps[at] = False
    gaps[-1] = False
    merged[at] = sentinels
    merged[gaps] = text
    merged[-1] = eos
    return merged


class SpanCorruptionObjective(Objective):
    """T5's span corruption."""

    config_class = SpanCorruption
    module = EncoderDecoderModule
    kinds = ("encoder_decoder",)
    fills_gaps = True

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return eos after a text; the decoder starts from bos."""
        eos = (spec.vocab.eos,)
        return Frame(between=eos, after=eos, start=(spec.vocab.bos,), end=eos, place=-1)

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row whose encoder reads the text that the decoder writes."""
        text = np.append(texts[0], np.int32(spec.vocab.eos))
        return encoder_decoder_arrays(text, text, (spec.length, spec.length), spec.vocab)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return packed windows that fill the encoder; ConfigError if spans outnumber the sentinels."""
        length, _ = raw_length(spec.length, spec.config)
        num_spans = noise_counts(length, spec.config)[1]
        if num_spans > spec.vocab.num_sentinels:
            raise ConfigError(
                f"span_corruption needs {num_spans} sentinels for data.sequence_length = {spec.length}, the "
                f"vocabulary has {spec.vocab.num_sentinels}; shorten the sequence, lower "
                "objective.noise_density or raise objective.mean_noise_span_length"
            )
        return WindowSpec(length=length)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a text without its noise, and the noise.

        window: Packed text, [raw_length(length)[0]].

        Returns:
            Encoder input [length]; decoder input, targets and weights [raw_length(length)[1]].
        """
        encoder, targets = corrupt(rng, text_of(window), spec)
        lengths = (spec.length, raw_length(spec.length, spec.config)[1])
        return encoder_decoder_arrays(encoder, targets, lengths, spec.vocab)


OBJECTIVE = SpanCorruptionObjective()
