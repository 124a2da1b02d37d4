"""Prefix language modelling: the first part of each text is read from both sides, the rest written after it.

As T5's prefix_lm cuts its text (t5/data/preprocessors.py, random_prefix_noise_mask): of L tokens the
prefix is a uniform number from 1 to L - 1, and what follows is predicted. The two parts stay in one row of
one decoder (Raffel et al. 2020, figure 3), whose mask lifts causality from the prefix. Each document of a
packed row has a prefix of its own. A row is otherwise one of clm.py.
"""

import dataclasses

import numpy as np
from typing_extensions import override

from tlx.data.window import Window
from tlx.objectives.clm import CLMObjective
from tlx.objectives.shared.base import ObjectiveSpec


@dataclasses.dataclass(frozen=True)
class PrefixLM:
    """Prefix language modelling has no settings."""

    name: str = "prefix_lm"
    """Name in the table of objectives."""

    def validate(self) -> None:
        """Accept every value."""


class PrefixLMObjective(CLMObjective):
    """Prefix language modelling in a decoder."""

    config_class = PrefixLM

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row whose targets follow a random prefix.

        window: Packed text, [length + 1].

        Returns:
            As CLM's, and `prefix` [length], 1 on the inputs that their whole document sees. The last token of
            the prefix has the first target with a weight.
        """
        row = super().example(rng, window, spec)
        segments = row["segments"]
        sizes = np.bincount(segments)[1:]
        # A document's n inputs and its last target are L = n + 1 tokens.
        prefixes = np.floor(rng.random(len(sizes)) * sizes).astype(np.int64) + 1
        starts = np.cumsum(sizes) - sizes
        # Padding has segment 0, hence index -1: the end of the row.
        last = np.append(starts + prefixes - 1, len(segments))[segments - 1]
        indices = np.arange(len(segments))
        real = segments > 0
        predicted = real & (indices >= last)
        return {
            **row,
            "targets": np.where(predicted, row["targets"], spec.vocab.pad).astype(np.int32),
            "weights": predicted.astype(np.float32),
            "prefix": (real & (indices <= last)).astype(np.int32),
        }


OBJECTIVE = PrefixLMObjective()
