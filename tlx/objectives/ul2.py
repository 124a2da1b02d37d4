"""UL2's mixture of denoisers: each row is noised in one of seven ways, and says in which kind it was.

Tay et al. 2022, table 1 and its appendix: R-denoising (short spans, little noise: T5's) and X-denoising
(long spans or much noise) are span corruption with their own mean length and density; S-denoising writes
the rest of a text from its beginning, cut at a uniform point as the appendix' code and T5's prefix_lm do it, or
before its last quarter as table 1 says (`split`; TABLE_1). A mode token stands
before the encoder's text: [NLU] for R, [NLG] for X, [S2S] for S, here the vocabulary's first three marks.
Each row draws its denoiser by the weights (table 1: all alike; section 4.5 prefers 40/40/20 for R/X/S).
Denoisers read texts of different lengths: a row reads the longest of them, and a shorter one works on a
piece from a uniformly random point of it.

(3, .5) at 512 tokens has 127 spans, more than there are sentinels: the official code goes on into ordinary
ids, which no longer tell what is missing. Here spans grow until each has a sentinel of its own (4.3 tokens
on average with 97).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.arrays import text_of
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays
from tlx.objectives.span_corruption import SpanCorruption, corrupt, noise_counts, raw_length
from tlx.text.frames import MARK, Frame

MODES = ("R", "X", "S")


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """One way to noise a row."""

    mode: Literal["R", "X", "S"]
    """Kind of denoising; "S" writes the rest of a text and needs no spans."""
    mean_span_length: float = 3.0
    """Mean length of a span in tokens, at least 1."""
    noise_density: float = 0.15
    """Fraction of the tokens that are noise, between 0 and 1."""
    weight: float = 1.0
    """Relative probability of this denoiser, above 0."""
    split: Literal["uniform", "fixed"] = "uniform"
    """Position of the cut of "S": at a uniform point, or so that `noise_density` of its tokens are written."""

    @functools.cached_property
    def spans(self) -> SpanCorruption:
        """The span corruption of modes R and X."""
        return SpanCorruption(noise_density=self.noise_density, mean_noise_span_length=self.mean_span_length)


# The denoisers of the appendix' code.
APPENDIX = (
    Denoiser("R", 3, 0.15),
    Denoiser("R", 8, 0.15),
    Denoiser("X", 3, 0.5),
    Denoiser("X", 8, 0.5),
    Denoiser("X", 64, 0.15),
    Denoiser("X", 64, 0.5),
    Denoiser("S"),
)
# Those of table 1, which has S write a quarter of the text.
TABLE_1 = (*APPENDIX[:-1], Denoiser("S", noise_density=0.25, split="fixed"))


@dataclasses.dataclass(frozen=True)
class UL2:
    """The denoisers with their weights, and whether the encoder is told the mode."""

    name: str = "ul2"
    """Name in the table of objectives."""
    denoisers: tuple[Denoiser, ...] = APPENDIX
    """The denoisers, at least one."""
    mode_tokens: bool = True
    """Whether the encoder's text begins with a mark of the mode."""

    def validate(self) -> None:
        """Raise ConfigError for no denoisers, or values that one cannot have."""
        if not self.denoisers:
            raise ConfigError("objective.denoisers is empty")
        for i, denoiser in enumerate(self.denoisers):
            if not denoiser.weight > 0:
                raise ConfigError(f"objective.denoisers[{i}].weight = {denoiser.weight} must be above 0")
            denoiser.spans.validate()

    @functools.cached_property
    def cumulative(self) -> np.ndarray:
        """Return the cumulative fractions of the denoisers, 0 to 1."""
        weights = np.array([denoiser.weight for denoiser in self.denoisers])
        return np.cumsum(weights) / weights.sum()


@functools.lru_cache(maxsize=256)
def _fitted(denoiser: Denoiser, room: int, sentinels: int) -> tuple[SpanCorruption, int, int]:
    """Fit a denoiser to the encoder and to the sentinels.

    Args:
        denoiser: The denoiser.
        room: Tokens of the encoder.
        sentinels: Sentinels that spans may take.

    Returns:
        (span corruption with no more spans than `sentinels`, text tokens, target tokens); both lengths are
        `room` for mode S, at most a token less and eos on either side.
    """
    spans = denoiser.spans
    if denoiser.mode == "S":
        return spans, room, room
    mean = denoiser.mean_span_length
    while True:
        spans = SpanCorruption(noise_density=denoiser.noise_density, mean_noise_span_length=mean)
        size, num_targets = raw_length(room, spans)
        if noise_counts(size, spans)[1] <= sentinels:
            return spans, size, num_targets
        mean *= 1.02


def _cut(rng: np.random.Generator, size: int, denoiser: Denoiser) -> int:
    """Return how many of `size` tokens the encoder reads in mode S, at least 1 and fewer than all."""
    if denoiser.split == "uniform":
        return int(rng.integers(1, size))
    return min(max(size - round(size * denoiser.noise_density), 1), size - 1)


def fit_denoiser(denoiser: Denoiser, spec: ObjectiveSpec) -> tuple[SpanCorruption, int, int]:
    """Fit a denoiser to what the modes leave of the row and of the sentinels, see `_fitted`."""
    num_modes = len(MODES) if spec.config.mode_tokens else 0
    return _fitted(denoiser, spec.length - spec.config.mode_tokens, spec.vocab.num_sentinels - num_modes)


def target_length(spec: ObjectiveSpec) -> int:
    """Return the length of the decoder's row, that of the longest targets."""
    return max(fit_denoiser(denoiser, spec)[2] for denoiser in spec.config.denoisers)


class UL2Objective(Objective):
    """UL2's mixture of denoisers."""

    config_class = UL2
    module = EncoderDecoderModule
    kinds = ("encoder_decoder",)
    fills_gaps = True

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return the mode before a text and eos after it; the decoder starts from bos."""
        vocab = spec.vocab
        eos = (vocab.eos,)
        used = {denoiser.mode for denoiser in spec.config.denoisers}
        modes = [mode for mode in MODES if mode in used and spec.config.mode_tokens]
        return Frame(
            before=(MARK,) if modes else (),
            between=eos,
            after=eos,
            start=(vocab.bos,),
            end=eos,
            place=-1,
            mark="mode" if modes else "",
            marks=tuple((mode, vocab.mark(MODES.index(mode))) for mode in modes),
        )

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row of the first mode whose encoder reads the text that the decoder writes."""
        vocab = spec.vocab
        text = np.append(texts[0], np.int32(vocab.eos))
        source = np.append(np.int32(vocab.mark(languages[0])), text) if spec.config.mode_tokens else text
        return encoder_decoder_arrays(source, text, (spec.length, spec.length), vocab)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return packed windows for the denoiser that reads most.

        Raises:
            ConfigError: The row or the vocabulary is too small.
        """
        if spec.length < 4:
            raise ConfigError(f"data.sequence_length = {spec.length} must be at least 4 for ul2")
        if spec.vocab.num_sentinels <= len(MODES):
            raise ConfigError(f"ul2 needs more than {len(MODES)} sentinels, not {spec.vocab.num_sentinels}")
        return WindowSpec(length=max(fit_denoiser(denoiser, spec)[1] for denoiser in spec.config.denoisers))

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row by one of the denoisers.

        window: Packed text, as long as the longest that a denoiser reads.

        Returns:
            Encoder input [length]; decoder input, targets and weights [target_length(spec)].
        """
        config = spec.config
        vocab = spec.vocab
        text = text_of(window)
        denoiser = config.denoisers[int(np.searchsorted(config.cumulative, rng.random(), side="right"))]
        spans, most, _ = fit_denoiser(denoiser, spec)
        size = min(len(text), most)
        start = int(rng.integers(len(text) - size + 1))
        text = text[start : start + size]
        if denoiser.mode == "S" and size > 1:
            cut = _cut(rng, size, denoiser)
            source = np.append(text[:cut], vocab.eos)
            targets = np.append(text[cut:], vocab.eos)
        else:  # as span corruption has it where there are not two tokens to cut
            source, targets = corrupt(rng, text, ObjectiveSpec(spans, spec.length, vocab))
        if config.mode_tokens and size:
            source = np.append(vocab.mark(MODES.index(denoiser.mode)), source)
        return encoder_decoder_arrays(source, targets, (spec.length, target_length(spec)), vocab)


OBJECTIVE = UL2Objective()
