"""XLM: masked tokens of one language, or of a text and its translation side by side (TLM).

Text without a translation is eos and a piece of the stream of documents, which see each other as there. A
pair is eos x eos, eos y eos, with positions that begin again at the second text and the language of each;
with `reset_positions` off the first text's eos is dropped, and positions count on (facebookresearch/XLM
utils.py concat_batches: 4 eos and 3). Where a pair is too long, the longer text loses its end.

Every token but the row's first is a target with probability `masking_rate`, eos too; 80% of them show mask,
10% a random id of the whole vocabulary (trainer.py mask_out, with sample_alpha 0 and without the rounding to
a multiple of 8 of its float16 mode). Rows have room for six standard deviations more than the mean. Sampling
of languages: data.mixture_power.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.objectives.mlm import MaskedModule
from tlx.objectives.shared.arrays import leading_ones, pad_to_length, sparse_targets, text_of, with_targets
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.objectives.shared.masking import check_shares, hide
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class XLM:
    """Fraction of masked tokens, and whether positions restart at a translation."""

    name: str = "xlm"
    """Name in the table of objectives."""
    masking_rate: float = 0.15
    """Probability that a token is a target, above 0 and at most 1."""
    mask_token_fraction: float = 0.8
    """Fraction of the targets that are shown as mask."""
    random_token_fraction: float = 0.1
    """Fraction of the targets that are shown as a random id."""
    reset_positions: bool = True
    """Whether positions begin again at the second text of a pair."""

    def validate(self) -> None:
        """Raise ConfigError for a rate outside (0, 1] or shares that exceed one."""
        if not 0 < self.masking_rate <= 1:
            raise ConfigError(f"objective.masking_rate = {self.masking_rate} must be above 0 and at most 1")
        check_shares(self)


def max_predictions(length: int, config: XLM) -> int:
    """Return the most targets of a row of `length` tokens."""
    mean = (length - 1) * config.masking_rate
    return min(math.ceil(mean + 6 * math.sqrt(mean * (1 - config.masking_rate))), length - 1)


def translation_row(window: Window, spec: ObjectiveSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (tokens, positions, languages) without padding, before anything is masked."""
    eos = spec.vocab.eos
    first = text_of(window)
    if window.second is None or not window.second.segments.any():
        tokens = np.append(eos, first) if len(first) else first
        return tokens, np.arange(len(tokens)), np.full(len(tokens), window.language)
    reset = spec.config.reset_positions
    second = text_of(window.second)
    first, second = shortened(first[first != eos], second[second != eos], spec.length - (4 if reset else 3))
    tokens = np.concatenate([[eos], first, [eos] if reset else [], [eos], second, [eos]]).astype(np.int32)
    switch = len(first) + (2 if reset else 1)  # where the second text begins
    indices = np.arange(len(tokens))
    positions = indices.copy()
    if reset:
        positions[switch:] -= switch
    return tokens, positions, np.where(indices < switch, window.language, window.second.language)


def shortened(a: np.ndarray, b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Truncate two texts at their ends: the longer one is cut first, then both alike.

    Args:
        a: int32 ids.
        b: int32 ids.
        room: Most tokens of both together.

    Returns:
        The beginnings of both.
    """
    size = min(len(a), max(room - len(b), (room + 1) // 2))
    return a[:size], b[: room - size]


class XLMObjective(Objective):
    """XLM's masked and translation language modelling."""

    config_class = XLM
    module = MaskedModule
    kinds = ("encoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return eos around each text, with the language of each."""
        eos = (spec.vocab.eos,)
        reset = spec.config.reset_positions
        return Frame(
            before=eos,
            between=eos * 2 if reset else eos,
            after=eos,
            second_ids=1,
            restarts=reset,
            mark="language",
            marks=tuple((name, index) for index, name in enumerate(spec.languages)),
            vectors=True,
        )

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row in which nothing is hidden."""
        return with_targets(super().clean_example(texts, spec, languages))

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return pairs where the data has them, else packed windows, with room for eos."""
        if spec.length < 6:
            raise ConfigError(f"data.sequence_length = {spec.length} must be at least 6 for xlm")
        return WindowSpec(spec.length - 1, "packed_or_parallel", second_length=spec.length - 1)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row of one text or a pair, with masked tokens.

        window: Packed text, or a text and its translation.

        Returns:
            tokens, positions, segments, langs [length]; target_positions (ascending), targets, weights [P].
        """
        config = spec.config
        row, positions, langs = translation_row(window, spec)
        tokens = pad_to_length(row, spec.length, spec.vocab.pad)
        drawn = 1 + np.flatnonzero(rng.random(max(len(row) - 1, 0)) <= config.masking_rate)
        size = max_predictions(spec.length, config)
        if len(drawn) > size:
            drawn = np.sort(rng.choice(drawn, size, replace=False))
        return {
            "tokens": hide(rng, tokens, drawn, spec, config),
            "positions": pad_to_length(positions, spec.length),
            "segments": leading_ones(len(row), spec.length),
            "langs": pad_to_length(langs, spec.length),
            **sparse_targets(tokens, drawn, size, spec.vocab.pad),
        }


OBJECTIVE = XLMObjective()
