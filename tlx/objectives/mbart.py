"""mBART's multilingual denoising: BART's noise on text of many languages, each text marked with its own.

A row is text, eos, language, and so are the targets; the decoder starts from the language (Liu et al. 2020;
transformers models/mbart shift_tokens_right). The noise is BART's with 35% of the words in spans of 3.5
words on average, and permuted sentences. A language is a mark of the vocabulary, by the index of its name
in data.languages: the sources of a mixture say theirs, and data.mixture_power balances them.
"""

import dataclasses

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.bart import BART, BARTObjective, add_noise, text_with_ends
from tlx.objectives.shared.base import ObjectiveSpec, marks_of
from tlx.objectives.shared.encoder_decoder import encoder_decoder_arrays
from tlx.text.frames import MARK, TARGET_MARK, Frame


@dataclasses.dataclass(frozen=True)
class MBART(BART):
    """BART's noise with mBART's shares."""

    name: str = "mbart"
    """Name in the table of objectives."""
    mask_fraction: float = 0.35
    """Fraction of the words in spans."""
    poisson_lambda: float = 3.5
    """Mean length of an infilled span in words, above 0."""


class MBARTObjective(BARTObjective):
    """mBART's multilingual denoising."""

    config_class = MBART

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return eos and the language after a text; the decoder starts from the language."""
        eos = (spec.vocab.eos,)
        return Frame(
            between=eos,
            after=(*eos, MARK),
            start=(TARGET_MARK,),
            end=(*eos, TARGET_MARK),
            place=-2,  # that of eos, as the class with a head reads it
            mark="language",
            marks=marks_of(spec),
        )

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return BART's windows; raises ConfigError if languages outnumber the vocabulary's marks."""
        if len(spec.languages) > spec.vocab.num_sentinels:
            raise ConfigError(
                f"data has {len(spec.languages)} languages, the vocabulary marks for "
                f"{spec.vocab.num_sentinels}"
            )
        return super().window_spec(spec)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a noised text and its original, both with their language.

        window: Packed text.

        Returns:
            Encoder input, decoder input, targets and weights, [length] each.
        """
        lengths = (spec.length, spec.length)
        text = text_with_ends(window, spec)
        if len(text) == 0:
            return encoder_decoder_arrays(text, text, lengths, spec.vocab)
        language = np.int32(spec.vocab.mark(window.language))
        source = np.append(add_noise(rng, text, spec)[1:], language)  # without bos
        return encoder_decoder_arrays(
            source, np.append(text[1:], language), lengths, spec.vocab, start=int(language)
        )


OBJECTIVE = MBARTObjective()
