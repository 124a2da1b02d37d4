"""Supervised text to text, translation above all: the decoder writes a pair's second text from its first.

The encoder reads the source and eos, the decoder starts from bos (Marian's and T5's pad in the same role:
an imported vocabulary says bos = pad) and writes the target and eos. Label smoothing, .1 in translation
since Vaswani et al. 2017, is loss.label_smoothing. Pairs are the data's (target_column); where several
languages are in the data and `mark_target` is on, the source starts with a mark of the target's language
(Johnson et al. 2017).
"""

import dataclasses

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.arrays import text_of
from tlx.objectives.shared.base import Objective, ObjectiveSpec, marks_of
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays
from tlx.text.frames import TARGET_MARK, Frame


@dataclasses.dataclass(frozen=True)
class TextToText:
    """Length of the targets, and whether the source names their language."""

    name: str = "text_to_text"
    """Name in the table of objectives."""
    target_length: int = 0
    """Length of the decoder's row in tokens; 0 is the encoder's. Longer texts are cut, without eos."""
    mark_target: bool = False
    """Whether the source starts with a mark of the target's language."""

    def validate(self) -> None:
        """Raise ConfigError for a negative length."""
        if self.target_length < 0:
            raise ConfigError(f"objective.target_length = {self.target_length} must not be negative")


class TextToTextObjective(Objective):
    """Supervised text to text."""

    config_class = TextToText
    module = EncoderDecoderModule
    kinds = ("encoder_decoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return eos after a text, before it the mark of the language to write if the source has it."""
        eos = (spec.vocab.eos,)
        is_marked = spec.config.mark_target
        return Frame(
            before=(TARGET_MARK,) if is_marked else (),
            between=eos,
            after=eos,
            start=(spec.vocab.bos,),
            end=eos,
            place=-1,
            mark="language" if is_marked else "",
            marks=marks_of(spec) if is_marked else (),
        )

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return pairs, whose texts end with eos where the data config says so (data.add_eos)."""
        return WindowSpec(spec.length, "parallel", second_length=spec.config.target_length or spec.length)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a source and its target.

        window: The source, and as a second text the target.

        Returns:
            Encoder input [length]; decoder input, targets and weights [target_length].
        """
        del rng
        assert window.second is not None
        source = text_of(window)
        target = text_of(window.second)
        if spec.config.mark_target and len(source):
            source = np.append(spec.vocab.mark(window.second.language), source)
        lengths = (spec.length, spec.config.target_length or spec.length)
        return encoder_decoder_arrays(source, target, lengths, spec.vocab)


OBJECTIVE = TextToTextObjective()
