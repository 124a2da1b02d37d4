"""Supervised text to text, translation above all: the decoder writes a pair's second text from its first.

The encoder reads the source and eos, the decoder starts from bos (Marian's and T5's pad in the same role:
an imported vocabulary says bos = pad) and writes the target and eos. Label smoothing, .1 in translation
since Vaswani et al. 2017, is loss.label_smoothing. Pairs are the data's (target_column); where several
languages are in the data and `mark_target` is on, the source starts with a mark of the target's language
(Johnson et al. 2017).
"""

import dataclasses

import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays


@dataclasses.dataclass(frozen=True)
class TextToText:
    """target_length: of the decoder's row; 0 is that of the encoder's. Longer texts are cut, eos included
    only where a text ends. mark_target: whether the encoder is told the target's language."""

    name: str = "text_to_text"
    target_length: int = 0
    mark_target: bool = False

    def validate(self) -> None:
        """Raises ConfigError for a negative length."""
        if self.target_length < 0:
            raise ConfigError(f"objective.target_length = {self.target_length} must not be negative")


def reads(spec: ObjectiveSpec) -> WindowSpec:
    """Pairs whose texts end with eos where the data config says so (data.add_eos, the default)."""
    return WindowSpec(spec.length, "parallel", second_length=spec.config.target_length or spec.length)


def example(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
    """Encoder input [length], decoder input and targets [target_length]."""
    del rng
    lengths = (spec.length, spec.config.target_length or spec.length)
    source, target = (text.tokens[: np.count_nonzero(text.segments)] for text in (window, window.second))
    if spec.config.mark_target and len(source):
        source = np.append(spec.vocab.mark(window.second.language), source)
    return encoder_decoder_arrays(source, target, lengths, spec.vocab)


OBJECTIVE = Objective(TextToText, reads, example, EncoderDecoderModule, kinds=("encoder_decoder",))
