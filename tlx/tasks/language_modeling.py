"""A decoder goes on with language modelling, on texts of its own kind: perplexity and bits per byte.

Every token of a text, and eos, is asked for; bos stands before it. A text that is longer than a row goes on
in the next one.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlx.data.readers import Record
from tlx.tasks.shared.base import Prediction, Scores, Task, TaskSpec, encode_columns
from tlx.tasks.shared.packed_text import (
    PackedModule,
    PackedRow,
    blank,
    example,
    join,
    likelihoods,
    pieces_of,
    size,
)
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class LanguageModeling:
    """text: the column that has it. packing: whether a row of training holds several texts."""

    name: str = "language_modeling"
    text: str = "text"
    packing: bool = True

    def validate(self) -> None:
        """Nothing can be wrong."""


def texts(config: LanguageModeling) -> tuple[tuple[str, str], ...]:
    """The one column."""
    return ((config.text, "objective.text"),)


def complete(config: LanguageModeling, records: Sequence[Record]) -> LanguageModeling:
    """Nothing is left open."""
    del records
    return config


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[PackedRow]:
    """An item for each piece of each record."""
    del labelled
    vocab, items = spec.vocab, []
    for number, (ids,) in enumerate(encode_columns(records, texts(spec.config), tokenizer)):
        tokens = np.concatenate([[vocab.bos], ids, [vocab.eos]])
        asked = np.arange(len(tokens)) > 0
        items += [PackedRow((piece,), number) for piece in pieces_of(tokens, asked, spec)]
    return items


def answers(outputs: Mapping[str, Any], items: Sequence[PackedRow], spec: TaskSpec) -> list[Prediction]:
    """{"nats", "tokens", "bytes", "bits_per_byte"} of each text."""
    found = likelihoods(outputs, items, spec)
    return [one | {"bits_per_byte": one["nats"] / math.log(2) / max(one["bytes"], 1)} for one in found]


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """Bits per byte, and the perplexity of a token; of both, less is better."""
    del records, spec
    nats, tokens, sizes = (
        np.array([answer[name] for answer in answers], np.float64) for name in ("nats", "tokens", "bytes")
    )

    def bits(chosen: np.ndarray) -> float:
        return float(nats[chosen].sum() / math.log(2) / max(sizes[chosen].sum(), 1))

    figures = {
        "bits_per_byte": bits(np.arange(len(nats))),
        "perplexity": float(np.exp(nats.sum() / tokens.sum())),
    }
    return Scores(figures, "bits_per_byte", bits, lower_is_better=True)


TASK = Task(
    LanguageModeling,
    complete,
    texts,
    prepare,
    blank,
    example,
    PackedModule,
    answers,
    score,
    ("decoder",),
    size=size,
    join=join,
    cuts=True,
)
