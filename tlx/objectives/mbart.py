"""mBART's multilingual denoising: BART's noise on text of many languages, each text marked with its own.

A row is text, eos, language, and so are the targets; the decoder starts from the language (Liu et al. 2020;
transformers models/mbart shift_tokens_right). The noise is BART's with 35% of the words in spans of 3.5
words on average, and permuted sentences. A language is a mark of the vocabulary, by the place of its name
in data.languages: the sources of a mixture say theirs, and data.mixture_power balances them.
"""

import dataclasses

import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives import bart
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule, encoder_decoder_arrays


@dataclasses.dataclass(frozen=True)
class MBART(bart.BART):
    """BART's noise with mBART's shares."""

    name: str = "mbart"
    mask_fraction: float = 0.35
    poisson_lambda: float = 3.5


def reads(spec: ObjectiveSpec) -> WindowSpec:
    """Windows for eos and the language; ConfigError if languages outnumber the vocabulary's marks."""
    if len(spec.languages) > spec.vocab.num_sentinels:
        raise ConfigError(
            f"data has {len(spec.languages)} languages, the vocabulary marks for {spec.vocab.num_sentinels}"
        )
    return bart.reads(spec)


def example(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
    """Encoder input, decoder input and targets, [length] each."""
    text, lengths = bart.row(window, spec), (spec.length, spec.length)
    if len(text) == 0:
        return encoder_decoder_arrays(text, text, lengths, spec.vocab)
    language = np.int32(spec.vocab.mark(window.language))
    source = np.append(bart.damaged(rng, text, spec)[1:], language)  # without bos
    return encoder_decoder_arrays(source, np.append(text[1:], language), lengths, spec.vocab, start=language)


OBJECTIVE = Objective(MBART, reads, example, EncoderDecoderModule, kinds=("encoder_decoder",))
