"""Dialogue in an encoder-decoder: the encoder reads what was said, the decoder writes the response.

Meena's and BlenderBot's form (Adiwardana et al. 2020; Roller et al. 2021): each turn of a conversation but
the first is a response once an epoch; its context is up to `max_turns` turns before it with sep between them,
without their beginning where they are too long, and eos. Every token of the response, and eos, is a target.
Ratings are left out: see dialogue.py.
"""

import dataclasses

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.dialogue import Dialogue, exchange
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class Seq2SeqDialogue(Dialogue):
    """Lengths of a response and of its context."""

    name: str = "seq2seq_dialogue"
    """Name in the table of objectives."""
    response_length: int = 0
    """Length of the decoder's row in tokens, eos included; 0 is the encoder's. What is longer is cut, without
    eos."""


class Seq2SeqDialogueObjective(Objective):
    """Dialogue in an encoder-decoder."""

    config_class = Seq2SeqDialogue
    module = EncoderDecoderModule
    kinds = ("encoder_decoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return eos after a text; the decoder starts from bos."""
        vocab = spec.vocab
        eos = (vocab.eos,)
        return Frame(between=(vocab.sep,), after=eos, start=(vocab.bos,), end=eos, place=-1)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return turns of conversations; raises ConfigError where a response has no room."""
        if spec.config.response_length == 1 or spec.length < 2:
            raise ConfigError(
                f"objective.response_length = {spec.config.response_length} and data.sequence_length = "
                f"{spec.length} must be at least 2"
            )
        return WindowSpec(spec.length, "turns", second_length=spec.config.response_length or spec.length)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a context and its response.

        window: The context, and as a second text the response.

        Returns:
            Encoder input [length]; decoder input, targets and weights [response_length].
        """
        del rng
        eos = spec.vocab.eos
        lengths = (spec.length, spec.config.response_length or spec.length)
        context, response, whole, _ = exchange(window, spec)
        source = np.append(context, eos) if len(response) else context
        target = np.append(response, eos) if whole else response
        return encoder_decoder_arrays(source, target, lengths, spec.vocab)


OBJECTIVE = Seq2SeqDialogueObjective()
