"""UL2's mixture of denoisers: each row is noised in one of seven ways, and says in which kind it was.

Tay et al. 2022, table 1 and its appendix: R-denoising (short spans, little noise: T5's) and X-denoising
(long spans or much noise) are span corruption with their own mean length and density; S-denoising writes
the rest of a text from its beginning, cut at a uniform place as T5's prefix_lm does it. A mode token stands
before the encoder's text: [NLU] for R, [NLG] for X, [S2S] for S, here the vocabulary's first three marks.
Each row draws its denoiser by the weights (table 1: all alike; section 4.5 prefers 40/40/20 for R/X/S).
Denoisers read texts of different lengths: a row reads the longest of them, and a shorter one works on a
piece from a uniformly random place of it.

(3, .5) at 512 tokens has 127 spans, more than there are sentinels: the official code goes on into ordinary
ids, which no longer tell what is missing. Here spans grow until each has a sentinel of its own (4.3 tokens
on average with 97).
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays
from tlx.objectives.span_corruption import SpanCorruption, corrupt, noise_counts, raw_length

MODES = ("R", "X", "S")


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """One way to noise a row: spans of a mean length (tokens) over a share of the text; S needs neither."""

    mode: Literal["R", "X", "S"]
    mean_span_length: float = 3.0
    noise_density: float = 0.15
    weight: float = 1.0

    @functools.cached_property
    def spans(self) -> SpanCorruption:
        """The span corruption of modes R and X."""
        return SpanCorruption(noise_density=self.noise_density, mean_noise_span_length=self.mean_span_length)


TABLE_1 = (
    Denoiser("R", 3, 0.15),
    Denoiser("R", 8, 0.15),
    Denoiser("X", 3, 0.5),
    Denoiser("X", 8, 0.5),
    Denoiser("X", 64, 0.15),
    Denoiser("X", 64, 0.5),
    Denoiser("S"),
)


@dataclasses.dataclass(frozen=True)
class UL2:
    """The denoisers with their weights, and whether the encoder is told the mode."""

    name: str = "ul2"
    denoisers: tuple[Denoiser, ...] = TABLE_1
    mode_tokens: bool = True

    def validate(self) -> None:
        """Raises ConfigError for no denoisers, or values that one cannot have."""
        if not self.denoisers:
            raise ConfigError("objective.denoisers is empty")
        for i, denoiser in enumerate(self.denoisers):
            if denoiser.mode not in MODES:
                raise ConfigError(one_of(f"objective.denoisers[{i}].mode", denoiser.mode, MODES))
            if not denoiser.weight > 0:
                raise ConfigError(f"objective.denoisers[{i}].weight = {denoiser.weight} must be above 0")
            denoiser.spans.validate()

    @functools.cached_property
    def cumulative(self) -> np.ndarray:
        """Where in 0..1 each denoiser's share ends."""
        weights = np.array([denoiser.weight for denoiser in self.denoisers])
        return np.cumsum(weights) / weights.sum()


@functools.lru_cache(maxsize=256)
def fitted(denoiser: Denoiser, room: int, sentinels: int) -> tuple[SpanCorruption, int, int]:
    """(span corruption with no more spans than `sentinels`, text tokens, target tokens) for an encoder with
    `room`; both lengths are the room's for S, at most a token less and eos on either side."""
    if denoiser.mode == "S":
        return denoiser.spans, room, room
    mean, needed = denoiser.mean_span_length, sentinels + 1
    while needed > sentinels:
        spans = SpanCorruption(noise_density=denoiser.noise_density, mean_noise_span_length=mean)
        size, num_targets = raw_length(room, spans)
        needed = noise_counts(size, spans)[1]
        mean *= 1.02
    return spans, size, num_targets


def fit(denoiser: Denoiser, spec: ObjectiveSpec) -> tuple[SpanCorruption, int, int]:
    """As `fitted`, with what the modes leave of the row and of the sentinels."""
    modes = len(MODES) if spec.config.mode_tokens else 0
    return fitted(denoiser, spec.length - spec.config.mode_tokens, spec.vocab.num_sentinels - modes)


def target_length(spec: ObjectiveSpec) -> int:
    """Length of the decoder's row: that of the longest targets."""
    return max(fit(denoiser, spec)[2] for denoiser in spec.config.denoisers)


def reads(spec: ObjectiveSpec) -> WindowSpec:
    """Packed windows for the denoiser that reads most; ConfigError if row or vocabulary is too small."""
    if spec.length < 4:
        raise ConfigError(f"data.sequence_length = {spec.length} must be at least 4 for ul2")
    if spec.vocab.num_sentinels <= len(MODES):
        raise ConfigError(f"ul2 needs more than {len(MODES)} sentinels, not {spec.vocab.num_sentinels}")
    return WindowSpec(length=max(fit(denoiser, spec)[1] for denoiser in spec.config.denoisers))


def example(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
    """Encoder input [length], decoder input and targets [target_length(spec)]."""
    config, vocab = spec.config, spec.vocab
    text = window.tokens[: np.count_nonzero(window.segments)]
    denoiser = config.denoisers[int(np.searchsorted(config.cumulative, rng.random(), side="right"))]
    spans, most, _ = fit(denoiser, spec)
    size = min(len(text), most)
    begin = int(rng.integers(len(text) - size + 1))
    text = text[begin : begin + size]
    if denoiser.mode == "S" and size > 1:
        cut = int(rng.integers(1, size))
        source, targets = np.append(text[:cut], vocab.eos), np.append(text[cut:], vocab.eos)
    else:  # as span corruption has it where there are not two tokens to cut
        source, targets = corrupt(rng, text, ObjectiveSpec(spans, spec.length, vocab))
    if config.mode_tokens and size:
        source = np.append(vocab.mark(MODES.index(denoiser.mode)), source)
    return encoder_decoder_arrays(source, targets, (spec.length, target_length(spec)), vocab)


OBJECTIVE = Objective(UL2, reads, example, EncoderDecoderModule, kinds=("encoder_decoder",), fills_gaps=True)
