"""CTRL's conditional language modelling: text that is written from a control code.

The code is the first token of every sequence (Keskar et al. 2019; salesforce/ctrl): of each row, and of
each document that starts in one, so that nothing is predicted without it. It says where the text is from,
as the data's `language` does: data.mixture gives each source a name, and the vocabulary's marks are their
codes, in that order. Each token of the text is a target once, the code never.
"""

import dataclasses

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.clm import CLMModule
from tlx.objectives.shared.base import Objective, ObjectiveSpec, marks_of
from tlx.text.frames import MARK, Frame


@dataclasses.dataclass(frozen=True)
class CTRL:
    """CTRL has no settings: the codes are the data's."""

    name: str = "ctrl"
    """Name in the table of objectives."""

    def validate(self) -> None:
        """Accept every value."""


class CTRLObjective(Objective):
    """CTRL's language modelling with a control code."""

    config_class = CTRL
    module = CLMModule
    kinds = ("decoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return the control code before a text, eos after it."""
        return Frame(
            before=(MARK,),
            start=(MARK,),
            end=(spec.vocab.eos,),
            place=-1,
            mark="code",
            marks=marks_of(spec),
        )

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return packed windows as long as the row; raises ConfigError if sources outnumber the marks."""
        if len(spec.languages) > spec.vocab.num_sentinels:
            raise ConfigError(
                f"data has {len(spec.languages)} control codes (the sources' languages), the vocabulary "
                f"marks for {spec.vocab.num_sentinels}"
            )
        return WindowSpec(length=spec.length)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row whose documents start with their control code.

        window: Packed text, [length].

        Returns:
            tokens, targets, weights, positions, segments [length].
        """
        del rng
        segments = window.segments
        pad = spec.vocab.pad
        real = segments > 0
        starts = real & (segments != np.append(0, segments[:-1]))
        previous = np.append(pad, window.tokens[:-1])
        tokens = np.where(starts, spec.vocab.mark(window.language), np.where(real, previous, pad))
        return {
            "tokens": tokens.astype(np.int32),
            "targets": np.where(real, window.tokens, pad).astype(np.int32),
            "weights": real.astype(np.float32),
            "positions": window.positions.copy(),
            "segments": segments.copy(),
        }


OBJECTIVE = CTRLObjective()
