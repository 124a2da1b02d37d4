"""Several tasks in one model, each as text to text with words of its own in front (Raffel et al. 2020).

data.records.sets has the records, a set for each task; the set called "nli" is asked as the part called "nli"
says. How often each comes by is data.records.temperature, T5's examples-proportional mixing where it is 1.
Each task has the scores of its own metrics, "nli.accuracy", and the mean over tasks of what counts most in
each (of metrics from 0 to 100, a hundredth) is what counts most of all.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record
from tlx.tasks.generation import GenerationColumns, answers, complete, items_of, scores_of
from tlx.tasks.shared.base import Prediction, Scores, Task, TaskSpec
from tlx.tasks.shared.generative import (
    KINDS,
    DecodingConfig,
    GenerationItem,
    GenerationModule,
    asks,
    blank,
    example,
)
from tlx.tasks.shared.templates import columns_of
from tlx.tasks.shared.text_metrics import PERCENT
from tlx.text.tokenizer import Tokenizer

TASK_COLUMN = "task"  # of a record that is of no set, for predict


@dataclasses.dataclass(frozen=True)
class TaskComponent(GenerationColumns):
    """One task; name: that of its set of records."""

    name: str = ""


@dataclasses.dataclass(frozen=True)
class Multitask(DecodingConfig):
    """The tasks."""

    name: str = "multitask"
    parts: tuple[TaskComponent, ...] = ()

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        super().validate()
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names) or "" in names:
            raise ConfigError(f"objective.parts are called {names}: one or more, each with a name of its own")
        for i, part in enumerate(self.parts):
            part.check(f"objective.parts[{i}]")

    def asking(self, record: Record) -> tuple[TaskComponent, str]:
        """The part that a record is of, and what it is called in messages."""
        name = record.set or record.values.get(TASK_COLUMN, "")
        for i, part in enumerate(self.parts):
            if part.name == name:
                return part, f"objective.parts[{i}]"
        names = [part.name for part in self.parts]
        if record.set:
            raise ConfigError(one_of("the name of a set in data.records.sets", name, names))
        raise DataError(f"{record.where}: " + one_of(f"the column {TASK_COLUMN!r}", name, names))


def texts(config: Multitask) -> tuple[tuple[str, str], ...]:
    """The name of the task, and columns of all sources."""
    columns = [
        (name, f"objective.parts[{i}].source")
        for i, part in enumerate(config.parts)
        for name in columns_of(part.source)
    ]
    return ((TASK_COLUMN, "objective.parts"), *columns)


def written(config: Multitask) -> tuple[tuple[str, str], ...]:
    """Columns of all targets."""
    return tuple(
        (name, f"objective.parts[{i}].target")
        for i, part in enumerate(config.parts)
        for name in columns_of(part.target)
    )


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[GenerationItem]:
    """An item for each record."""
    return items_of(records, [spec.config.asking(record) for record in records], tokenizer, spec, labelled)


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """The scores of each task that has records, and their mean."""
    own: dict[str, np.ndarray] = {}
    scores: dict[str, Scores] = {}
    asked = [spec.config.asking(record) for record in records]
    for part, field in dict.fromkeys(asked):
        mine = [number for number, pair in enumerate(asked) if pair[0] is part]
        found = [answers[number] for number in mine], [records[number] for number in mine]
        own[part.name], scores[part.name] = np.array(mine), scores_of(part, *found, field)
    return _joined(scores, own, len(records))


def _joined(scores: dict[str, Scores], own: dict[str, np.ndarray], size: int) -> Scores:
    place = np.zeros(size, int)  # of each record among those of its task
    task = np.zeros(size, int)
    for number, numbers in enumerate(own.values()):
        place[numbers], task[numbers] = np.arange(len(numbers)), number
    units = {name: 0.01 if found.main in PERCENT else 1.0 for name, found in scores.items()}

    def mean(chosen: np.ndarray) -> float:
        values = []
        for number, (name, found) in enumerate(scores.items()):
            mine = place[chosen[task[chosen] == number]]
            if len(mine):
                values.append(units[name] * found.statistic(mine))
        return float(np.mean(values))

    figures = {
        f"{name}.{metric}": value for name, found in scores.items() for metric, value in found.figures.items()
    }
    floor = float(np.mean([units[name] * found.majority_baseline for name, found in scores.items()]))
    return Scores({"mean": mean(np.arange(size))} | figures, "mean", mean, floor)


TASK = Task(
    Multitask,
    complete,
    texts,
    prepare,
    blank,
    example,
    GenerationModule,
    answers,
    score,
    KINDS,
    asks=asks,
    written=written,
)
