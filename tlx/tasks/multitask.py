"""Several tasks in one model, each as text to text with words of its own in front (Raffel et al. 2020).

data.records.sets has the records, a set for each task; the set called "nli" is asked as the part called "nli"
says. How often each comes by is data.records.temperature, T5's examples-proportional mixing where it is 1.
Each task has the scores of its own metrics, "nli.accuracy", and the mean over tasks of the primary metric of
each (of metrics from 0 to 100, a hundredth) is the primary metric of all.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record
from tlx.tasks.generation import GenerationColumns, GenerationTask, items_of, text_scores
from tlx.tasks.shared.base import Columns, Prediction, Scores, TaskSpec
from tlx.tasks.shared.generative import DecodingConfig, GenerationItem
from tlx.tasks.shared.templates import columns_of
from tlx.tasks.shared.text_metrics import PERCENT
from tlx.text.tokenizer import Tokenizer

TASK_COLUMN = "task"  # of a record that is of no set, for predict


@dataclasses.dataclass(frozen=True)
class TaskComponent(GenerationColumns):
    """One task."""

    name: str = ""
    """Name of its set of records."""


@dataclasses.dataclass(frozen=True)
class Multitask(DecodingConfig):
    """The tasks."""

    name: str = "multitask"
    """Name in the table of tasks."""
    parts: tuple[TaskComponent, ...] = ()
    """The tasks, at least one, each with a name of its own."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        super().validate()
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names) or "" in names:
            raise ConfigError(f"objective.parts are called {names}: one or more, each with a name of its own")
        for i, part in enumerate(self.parts):
            part.check(f"objective.parts[{i}]")

    def part_of(self, record: Record) -> tuple[TaskComponent, str]:
        """Return the task of a record, and what it is called in messages."""
        name = record.set or record.values.get(TASK_COLUMN, "")
        for i, part in enumerate(self.parts):
            if part.name == name:
                return part, f"objective.parts[{i}]"
        names = [part.name for part in self.parts]
        if record.set:
            raise ConfigError(one_of("the name of a set in data.records.sets", name, names))
        raise DataError(f"{record.where}: " + one_of(f"the column {TASK_COLUMN!r}", name, names))


class MultitaskTask(GenerationTask):
    """Several tasks of generation on one model."""

    config_class = Multitask

    @override
    def text_columns(self, config: Multitask) -> Columns:
        """Return the task's name, and the columns of all sources."""
        columns = [
            (name, f"objective.parts[{i}].source")
            for i, part in enumerate(config.parts)
            for name in columns_of(part.source)
        ]
        return ((TASK_COLUMN, "objective.parts"), *columns)

    @override
    def target_columns(self, config: Multitask) -> Columns:
        """Return the columns of all targets."""
        return tuple(
            (name, f"objective.parts[{i}].target")
            for i, part in enumerate(config.parts)
            for name in columns_of(part.target)
        )

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[GenerationItem]:
        """Make an item of each record."""
        parts = [spec.config.part_of(record) for record in records]
        return items_of(records, parts, tokenizer, spec, labelled)

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute the metrics of each task that has records, and their mean."""
        indices: dict[str, np.ndarray] = {}
        scores: dict[str, Scores] = {}
        parts = [spec.config.part_of(record) for record in records]
        for part, field in dict.fromkeys(parts):
            members = [number for number, (other, _) in enumerate(parts) if other is part]
            indices[part.name] = np.array(members)
            scores[part.name] = text_scores(
                part,
                [predictions[number] for number in members],
                [records[number] for number in members],
                field,
            )
        return _mean_scores(scores, indices, len(records))


def _mean_scores(scores: dict[str, Scores], indices: dict[str, np.ndarray], size: int) -> Scores:
    """Combine the scores of tasks, given the records of each."""
    index_in_task = np.zeros(size, int)
    task = np.zeros(size, int)
    for number, members in enumerate(indices.values()):
        index_in_task[members] = np.arange(len(members))
        task[members] = number
    units = {name: 0.01 if part.main in PERCENT else 1.0 for name, part in scores.items()}

    def mean(chosen: np.ndarray) -> float:
        values = []
        for number, (name, part) in enumerate(scores.items()):
            members = index_in_task[chosen[task[chosen] == number]]
            if len(members):
                values.append(units[name] * part.statistic(members))
        return float(np.mean(values))

    figures = {"mean": mean(np.arange(size))}
    for name, part in scores.items():
        figures |= {f"{name}.{metric}": value for metric, value in part.figures.items()}
    baseline = float(np.mean([units[name] * part.majority_baseline for name, part in scores.items()]))
    return Scores(figures, "mean", mean, baseline)


TASK = MultitaskTask()
