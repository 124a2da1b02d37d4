"""XLM: masked tokens of one language, or of a text and its translation side by side (TLM).

Text without a translation is eos and a piece of the stream of documents, which see each other as there. A
pair is eos x eos, eos y eos, with positions that begin again at the second text and the language of each;
with `reset_positions` off the first text's eos is dropped, and positions count on (facebookresearch/XLM
utils.py concat_batches: 4 eos and 3). Where a pair is too long, the longer text loses its end.

Every token but the row's first is a target with probability `rate`, eos too; 80% of them show mask, 10% a
random id of the whole vocabulary (trainer.py mask_out, with sample_alpha 0 and without the rounding to a
multiple of 8 of its float16 mode). Rows have room for six standard deviations more than the mean.
Sampling of languages: data.mixture_power.
"""

import dataclasses
import math

import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.mlm import MaskedModule
from tlx.objectives.shared.base import Objective, ObjectiveSpec, sparse_targets
from tlx.objectives.shared.masking import check_shares, hide


@dataclasses.dataclass(frozen=True)
class XLM:
    """How much is masked, and whether positions begin again at a translation."""

    name: str = "xlm"
    masking_rate: float = 0.15
    mask_token_fraction: float = 0.8
    random_token_fraction: float = 0.1
    reset_positions: bool = True

    def validate(self) -> None:
        """Raises ConfigError for a rate outside (0, 1] or shares that exceed one."""
        if not 0 < self.masking_rate <= 1:
            raise ConfigError(f"objective.masking_rate = {self.masking_rate} must be above 0 and at most 1")
        check_shares(self)


def max_predictions(length: int, config: XLM) -> int:
    """Room for targets in a row of `length` tokens."""
    mean = (length - 1) * config.masking_rate
    return min(math.ceil(mean + 6 * math.sqrt(mean * (1 - config.masking_rate))), length - 1)


def reads(spec: ObjectiveSpec) -> WindowSpec:
    """Pairs where the data has them, else packed windows; room for eos."""
    if spec.length < 6:
        raise ConfigError(f"data.sequence_length = {spec.length} must be at least 6 for xlm")
    return WindowSpec(spec.length - 1, "packed_or_parallel", second_length=spec.length - 1)


def example(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
    """tokens, positions, segments, langs [length]; target_positions (ascending), targets, weights [P]."""
    config, vocab = spec.config, spec.vocab
    row, positions, langs = translation_row(window, spec)
    tokens = np.full(spec.length, vocab.pad, np.int32)
    tokens[: len(row)] = row
    drawn = 1 + np.flatnonzero(rng.random(max(len(row) - 1, 0)) <= config.masking_rate)
    size = max_predictions(spec.length, config)
    if len(drawn) > size:
        drawn = np.sort(rng.choice(drawn, size, replace=False))
    return {
        "tokens": hide(rng, tokens, drawn, spec, config),
        "positions": _padded(positions, spec.length),
        "segments": (np.arange(spec.length) < len(row)).astype(np.int32),
        "langs": _padded(langs, spec.length),
        **sparse_targets(tokens, drawn, size, vocab.pad),
    }


def translation_row(window: Window, spec: ObjectiveSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, positions, languages) without padding, before anything is masked."""
    eos = spec.vocab.eos
    first = _text(window)
    if window.second is None or not window.second.segments.any():
        tokens = np.append(eos, first) if len(first) else first
        return tokens, np.arange(len(tokens)), np.full(len(tokens), window.language)
    first, second = (text[text != eos] for text in (first, _text(window.second)))
    reset = spec.config.reset_positions
    first, second = shortened(first, second, spec.length - (4 if reset else 3))
    tokens = np.concatenate([[eos], first, [eos] if reset else [], [eos], second, [eos]]).astype(np.int32)
    switch = len(first) + (2 if reset else 1)
    positions = np.arange(len(tokens))
    if reset:
        positions[switch:] -= switch
    return (
        tokens,
        positions,
        np.where(np.arange(len(tokens)) < switch, window.language, window.second.language),
    )


def shortened(a: np.ndarray, b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """The beginnings of both, `room` tokens together: the longer one is cut first, then both alike."""
    size = min(len(a), max(room - len(b), (room + 1) // 2))
    return a[:size], b[: room - size]


def _text(window: Window) -> np.ndarray:
    return window.tokens[: np.count_nonzero(window.segments)]


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    padded = np.zeros(length, np.int32)
    padded[: len(values)] = values
    return padded


OBJECTIVE = Objective(XLM, reads, example, MaskedModule, kinds=("encoder",))
