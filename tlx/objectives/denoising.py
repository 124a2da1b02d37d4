"""T5's i.i.d. denoising: tokens are noise independently of each other, in four styles (its table 3).

    style        encoder                                    targets
    bert         Thank you <M> <M> me to your apple week    the whole text
    mask         Thank you <M> <M> me to your party <M>     the whole text ("MASS-style" in the paper)
    spans        Thank you <X> me to your party <Y>         <X> for inviting <Y> week
    drop         Thank you me to your party                 for inviting week

t5/models/gin/objectives: iid_15_r10s90_f, iid_15_m_f, iid_15_u_u, iid_15_d_d. Each token is noise with
probability `noise_density` (iid_noise_mask), so that their number varies; <M> is the vocabulary's mask,
where T5 takes its first sentinel. In "bert" 10% of the noise shows a random token instead, none stays as
it is (noise_token_to_random_token_or_sentinel: BERT's third case is left out there). In "spans" each run
of noise, and in the targets each run of text, becomes the next sentinel, as T5 has it: targets of a text
that starts with noise start with that noise. eos is added to both.

Shapes are fixed, so that noise beyond six standard deviations, or beyond the last sentinel, stays text.
"""

import dataclasses
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
from tlx.text.vocabulary import Vocabulary

STYLES = ("bert", "mask", "spans", "drop")


@dataclasses.dataclass(frozen=True)
class Denoising:
    """Fraction of noise, its form in the encoder's input, and the decoder's target."""

    name: str = "denoising"
    """Name in the table of objectives."""
    style: Literal["bert", "mask", "spans", "drop"] = "spans"
    """Which form of the table in the module's docstring."""
    noise_density: float = 0.15
    """Fraction of the tokens that are noise, between 0 and 1."""
    random_token_fraction: float = 0.1
    """Fraction of the noise of style "bert" that is shown as a random token."""

    def validate(self) -> None:
        """Raise ConfigError for a share outside its range."""
        if not 0 < self.noise_density < 1:
            raise ConfigError(f"objective.noise_density = {self.noise_density} must lie between 0 and 1")
        if not 0 <= self.random_token_fraction <= 1:
            raise ConfigError(
                f"objective.random_token_fraction = {self.random_token_fraction} must lie in 0..1"
            )


def most_noise(length: int, config: Denoising) -> int:
    """Return the most noise tokens in `length` tokens: six standard deviations above the mean."""
    spread = math.sqrt(length * config.noise_density * (1 - config.noise_density))
    return min(math.ceil(length * config.noise_density + 6 * spread), length)


def most_spans(length: int, spec: ObjectiveSpec) -> int:
    """Return the most runs of noise in `length` tokens, each of which needs a sentinel."""
    return min(spec.vocab.num_sentinels, most_noise(length, spec.config), (length + 1) // 2)


def target_length(spec: ObjectiveSpec) -> int:
    """Return the length of the decoder's row."""
    length = spec.length - 1
    if spec.config.style in ("bert", "mask"):
        return spec.length
    noise = most_noise(length, spec.config)
    # A run of noise has a sentinel before it, and one may follow the last.
    return noise + 1 + (most_spans(length, spec) + 1 if spec.config.style == "spans" else 0)


def corrupt(rng: np.random.Generator, text: np.ndarray, spec: ObjectiveSpec) -> tuple[np.ndarray, np.ndarray]:
    """Add the noise.

    Args:
        rng: Random generator of the row.
        text: int32 ids.
        spec: What examples depend on.

    Returns:
        What the encoder reads, and what the decoder writes, both without eos.
    """
    config = spec.config
    vocab = spec.vocab
    noise = rng.random(len(text)) < config.noise_density
    noise &= np.cumsum(noise) <= most_noise(spec.length - 1, config)
    if config.style == "drop":
        return text[~noise], text[noise]
    if config.style == "spans":
        noise &= np.cumsum(run_starts(noise)) <= most_spans(spec.length - 1, spec)
        return replace_by_sentinels(text, noise, vocab), replace_by_sentinels(text, ~noise, vocab)
    shown = np.where(noise, vocab.mask, text).astype(np.int32)
    if config.style == "bert":
        positions = np.flatnonzero(noise)
        positions = positions[rng.random(len(positions)) < config.random_token_fraction]
        shown[positions] = rng.integers(0, vocab.size, len(positions), dtype=np.int32)
    return shown, text


def run_starts(mask: np.ndarray) -> np.ndarray:
    """Return bool, True where a run of True begins."""
    return mask & ~np.append(False, mask[:-1])


def replace_by_sentinels(text: np.ndarray, mask: np.ndarray, vocab: Vocabulary) -> np.ndarray:
    """Replace runs of tokens by sentinels.

    Args:
        text: int32 [n].
        mask: bool [n], the runs.
        vocab: The vocabulary.

    Returns:
        The text with one sentinel for each run, from the first of them on.
    """
    starts = run_starts(mask)
    replaced = np.where(starts, vocab.sentinel(0) + 1 - np.cumsum(starts), text).astype(np.int32)
    return replaced[~mask | starts]


class DenoisingObjective(Objective):
    """T5's i.i.d. denoising."""

    config_class = Denoising
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
        """Return packed windows with room for eos; raises ConfigError if noise would often lack sentinels."""
        config = spec.config
        length = spec.length - 1
        if length < 1:
            raise ConfigError(f"data.sequence_length = {spec.length} must be at least 2 for denoising")
        expected = length * config.noise_density * (1 - config.noise_density)
        if config.style == "spans" and expected + 3 * math.sqrt(expected) > spec.vocab.num_sentinels:
            raise ConfigError(
                f"denoising in spans needs about {expected:.0f} sentinels for data.sequence_length = "
                f"{spec.length}, and 3 standard deviations more; the vocabulary has "
                f"{spec.vocab.num_sentinels}: shorten the sequence or lower objective.noise_density"
            )
        return WindowSpec(length=length)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a noisy text and its targets.

        window: Packed text, [length - 1].

        Returns:
            Encoder input [length]; decoder input, targets and weights [target_length(spec)].
        """
        text = text_of(window)
        lengths = (spec.length, target_length(spec))
        if len(text) == 0:
            return encoder_decoder_arrays(text, text, lengths, spec.vocab)
        source, targets = corrupt(rng, text, spec)
        end = np.int32(spec.vocab.eos)
        return encoder_decoder_arrays(np.append(source, end), np.append(targets, end), lengths, spec.vocab)


OBJECTIVE = DenoisingObjective()
