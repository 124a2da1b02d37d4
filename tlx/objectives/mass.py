"""MASS: a span is hidden from the encoder, and the decoder writes it from nothing but its own beginning.

A row is bos, text, eos. One span of round(.5 * n) of its n tokens (microsoft/MASS, MASS-unsupNMT
src/trainer.py restricted_mask_sent): at the start (after bos, which is never hidden) with probability .2,
at the end (eos included) with .2, and else anywhere, every position equally likely. Of the span the encoder
sees 80% as mask, 10% as random ids and 10% as they are, each token drawn for itself. The decoder reads the
token before the span and then the span but its last token, at their positions in the text, and predicts
the span: the decoder's row is as long as the span. Official code rounds n of the longest row of a batch;
here each row counts for itself, which is the same for full rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.arrays import pad_to_length, text_of
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class MASS:
    """The span's share of the row, where it lies, and what the encoder sees of it."""

    name: str = "mass"
    """Name in the table of objectives."""
    span_fraction: float = 0.5
    """Length of the span as a fraction of the row, between 0 and 1."""
    start_fraction: float = 0.2
    """Fraction of the rows whose span is at the start."""
    end_fraction: float = 0.2
    """Fraction of the rows whose span is at the end."""
    mask_token_fraction: float = 0.8
    """Fraction of the span's tokens that the encoder sees as mask."""
    random_token_fraction: float = 0.1
    """Fraction of the span's tokens that the encoder sees as random ids."""

    def validate(self) -> None:
        """Raise ConfigError for shares outside 0..1, or that add up to more than one."""
        if not 0 < self.span_fraction < 1:
            raise ConfigError(f"objective.span_fraction = {self.span_fraction} must lie between 0 and 1")
        for one, other in (
            ("start_fraction", "end_fraction"),
            ("mask_token_fraction", "random_token_fraction"),
        ):
            first = getattr(self, one)
            second = getattr(self, other)
            if first < 0 or second < 0 or first + second > 1:
                raise ConfigError(
                    f"objective.{one} = {first} and objective.{other} = {second} must be shares that add "
                    "up to at most 1"
                )


def span_length(length: int, config: MASS) -> int:
    """Return the hidden tokens of a row of `length` >= 3 tokens, bos and eos included; never bos."""
    return min(max(round(length * config.span_fraction), 1), length - 1)


def span_start(rng: np.random.Generator, length: int, size: int, config: MASS) -> int:
    """Draw where a span begins.

    Args:
        rng: Random generator of the row.
        length: Tokens of the row.
        size: Tokens of the span.
        config: How often it is at the start or the end.

    Returns:
        1 to length - size.
    """
    draw = rng.random()
    last = length - size
    if draw < config.start_fraction:
        return 1
    if draw < config.start_fraction + config.end_fraction:
        return last
    return int(rng.integers(1, last + 1))


class MASSObjective(Objective):
    """MASS: masked sequence to sequence."""

    config_class = MASS
    module = EncoderDecoderModule
    kinds = ("encoder_decoder",)
    restores_masks = True

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return bos before a text, eos after it; the decoder starts from bos."""
        eos = (spec.vocab.eos,)
        return Frame(
            before=(spec.vocab.bos,), between=eos, after=eos, start=(spec.vocab.bos,), end=eos, place=-1
        )

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row whose encoder reads the text that the decoder writes."""
        vocab = spec.vocab
        row = np.concatenate([[vocab.bos], texts[0], [vocab.eos]]).astype(np.int32)
        return encoder_decoder_arrays(row, row[1:], (spec.length, spec.length), vocab)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return packed windows that leave room for bos and eos; raises ConfigError if there is none."""
        if spec.length < 3:
            raise ConfigError(f"data.sequence_length = {spec.length} must be at least 3 for mass")
        return WindowSpec(length=spec.length - 2)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a text with a hidden span, and the span.

        window: Packed text, [length - 2].

        Returns:
            Encoder input [length]; decoder input, targets and weights [span_length(length)].
        """
        config = spec.config
        vocab = spec.vocab
        text = text_of(window)
        lengths = (spec.length, span_length(spec.length, config))
        if len(text) == 0:
            return encoder_decoder_arrays(text, text, lengths, vocab)
        row = np.empty(len(text) + 2, np.int32)
        row[0] = vocab.bos
        row[1:-1] = text
        row[-1] = vocab.eos
        size = span_length(len(row), config)
        start = span_start(rng, len(row), size, config)
        span = slice(start, start + size)
        draw = rng.random(size)
        random_ids = rng.integers(0, vocab.size, size, dtype=np.int32)
        replaced = np.where(
            draw < config.mask_token_fraction + config.random_token_fraction, random_ids, row[span]
        )
        source = row.copy()
        source[span] = np.where(draw < config.mask_token_fraction, vocab.mask, replaced)
        arrays = encoder_decoder_arrays(source, row[span], lengths, vocab, start=row[start - 1])
        positions = np.arange(start - 1, start - 1 + size, dtype=np.int32)
        return {**arrays, "decoder_positions": pad_to_length(positions, lengths[1])}


OBJECTIVE = MASSObjective()
