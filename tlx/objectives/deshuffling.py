"""Deshuffling: the encoder reads a text's tokens in random order, the decoder writes them in the right one.

T5's all_permute (t5/models/gin/objectives, after Liu et al. 2019): every token is noise, the noise is
permuted, and the targets are the whole text. eos stays after both.
"""

import dataclasses
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
class Deshuffling:
    """Deshuffling has no settings."""

    name: str = "deshuffling"
    """Name in the table of objectives."""

    def validate(self) -> None:
        """Accept every value."""


class DeshufflingObjective(Objective):
    """T5's deshuffling."""

    config_class = Deshuffling
    module = EncoderDecoderModule
    kinds = ("encoder_decoder",)

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
        """Return packed windows that leave room for eos; raises ConfigError if there is none."""
        if spec.length < 2:
            raise ConfigError(f"data.sequence_length = {spec.length} must be at least 2 for deshuffling")
        return WindowSpec(length=spec.length - 1)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a shuffled text and its original.

        window: Packed text, [length - 1].

        Returns:
            Encoder input, decoder input, targets and weights, [length] each.
        """
        text = text_of(window)
        end = np.full(min(len(text), 1), spec.vocab.eos, np.int32)  # none after nothing
        source = np.append(rng.permutation(text), end)
        targets = np.append(text, end)
        return encoder_decoder_arrays(source, targets, (spec.length, spec.length), spec.vocab)


OBJECTIVE = DeshufflingObjective()
