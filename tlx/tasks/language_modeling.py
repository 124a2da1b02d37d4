"""A decoder goes on with language modelling, on texts of its own kind: perplexity and bits per byte.

Every token of a text, and eos, is predicted; bos stands before it. A text that is longer than a row goes on
in the next one.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from tlx.data.readers import Record
from tlx.tasks.shared.base import Columns, Prediction, Scores, TaskSpec, encode_columns
from tlx.tasks.shared.packed_text import PackedRow, PackedTextTask, cut_segments, likelihoods
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class LanguageModeling:
    """Column of the text, and whether rows are packed."""

    name: str = "language_modeling"
    """Name in the table of tasks."""
    text: str = "text"
    """Column with the text."""
    packing: bool = True
    """Whether a row of training holds several texts."""

    def validate(self) -> None:
        """Accept every value."""


class LanguageModelingTask(PackedTextTask):
    """Language modelling of records."""

    config_class = LanguageModeling

    @override
    def text_columns(self, config: LanguageModeling) -> Columns:
        """Return the one column."""
        return ((config.text, "objective.text"),)

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[PackedRow]:
        """Make the segments of each record.

        labelled: Not used; texts are their own labels.

        Returns:
            An item for each segment.
        """
        del labelled
        frame = self.frame(spec).named()
        end = frame.end or (spec.vocab.eos,)
        items = []
        for number, (ids,) in enumerate(encode_columns(records, self.text_columns(spec.config), tokenizer)):
            tokens = np.concatenate([frame.first, ids, end]).astype(np.int32)
            predicted = np.arange(len(tokens)) >= len(frame.first)
            items += [PackedRow((segment,), number) for segment in cut_segments(tokens, predicted, spec)]
        return items

    @override
    def predictions(
        self, outputs: Mapping[str, Any], items: Sequence[PackedRow], spec: TaskSpec
    ) -> list[Prediction]:
        """Compute the likelihood of each text.

        outputs: "nats" [items].
        items: The segments.

        Returns:
            {"nats", "tokens", "bytes", "bits_per_byte"} of each text.
        """
        return [
            total | {"bits_per_byte": total["nats"] / math.log(2) / max(total["bytes"], 1)}
            for total in likelihoods(outputs, items, spec)
        ]

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute bits per byte, and the perplexity of a token; of both, less is better."""
        del records, spec
        nats = np.array([prediction["nats"] for prediction in predictions], np.float64)
        tokens = np.array([prediction["tokens"] for prediction in predictions], np.float64)
        num_bytes = np.array([prediction["bytes"] for prediction in predictions], np.float64)

        def bits_per_byte(chosen: np.ndarray) -> float:
            return float(nats[chosen].sum() / math.log(2) / max(num_bytes[chosen].sum(), 1))

        figures = {
            "bits_per_byte": bits_per_byte(np.arange(len(nats))),
            "perplexity": float(np.exp(nats.sum() / tokens.sum())),
        }
        return Scores(figures, "bits_per_byte", bits_per_byte, lower_is_better=True)


TASK = LanguageModelingTask()
