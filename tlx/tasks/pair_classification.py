"""Which class a pair of texts belongs to: entailment, paraphrase, whether an answer answers.

Both texts stand in one row, the first one first (rows.py); the rest is as for one text.
"""

import dataclasses
import functools
from collections.abc import Sequence

from tlx.data.readers import Record
from tlx.tasks.classification import Classes, ClassesModule, answers, blank, complete, draw, example, items_of
from tlx.tasks.classification import score as score_classes
from tlx.tasks.shared.base import Item, Task, TaskSpec
from tlx.tasks.shared.inputs import KINDS
from tlx.tasks.shared.packed_examples import JoinedItems, join, size
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PairClassification(Classes):
    """first, second: the columns that have the texts."""

    name: str = "pair_classification"
    first: str = "premise"
    second: str = "hypothesis"


def texts(config: PairClassification) -> tuple[tuple[str, str], ...]:
    """Both columns."""
    return ((config.first, "objective.first"), (config.second, "objective.second"))


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[Item] | list[JoinedItems]:
    """An item for each record."""
    return items_of(records, tokenizer, spec, texts(spec.config), labelled)


TASK = Task(
    PairClassification,
    complete,
    texts,
    prepare,
    functools.partial(blank, count=2),
    functools.partial(example, count=2),
    ClassesModule,
    answers,
    score_classes,
    KINDS,
    draw,
    size=size,
    join=join,
)
