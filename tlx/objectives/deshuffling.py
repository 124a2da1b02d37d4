"""Deshuffling: the encoder reads a text's tokens in random order, the decoder writes them in the right one.

T5's all_permute (t5/models/gin/objectives, after Liu et al. 2019): every token is noise, the noise is
permuted, and the targets are the whole text. eos stays behind both.
"""

import dataclasses

import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays


@dataclasses.dataclass(frozen=True)
class Deshuffling:
    """Deshuffling has nothing to choose."""

    name: str = "deshuffling"

    def validate(self) -> None:
        """Nothing can be wrong."""


def reads(spec: ObjectiveSpec) -> WindowSpec:
    """Packed windows that leave room for eos; ConfigError if there is none."""
    if spec.length < 2:
        raise ConfigError(f"data.sequence_length = {spec.length} must be at least 2 for deshuffling")
    return WindowSpec(length=spec.length - 1)


def example(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
    """Encoder input, decoder input and targets, [length] each."""
    text = window.tokens[: np.count_nonzero(window.segments)]
    end = np.full(min(len(text), 1), spec.vocab.eos, np.int32)  # none behind nothing
    source, targets = np.append(rng.permutation(text), end), np.append(text, end)
    return encoder_decoder_arrays(source, targets, (spec.length, spec.length), spec.vocab)


OBJECTIVE = Objective(Deshuffling, reads, example, EncoderDecoderModule, kinds=("encoder_decoder",))
