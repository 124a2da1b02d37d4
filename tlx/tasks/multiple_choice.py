"""Which of a few texts goes on, or answers, best: causes and effects, endings, reading tests.

Each choice is a row behind what all share (the context, and a question where there is one); a head gives
each row a number, and the softmax over the rows is the answer (Radford et al. 2018, 3.3).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from tlx.base.errors import ConfigError
from tlx.base.term import Terms
from tlx.data.readers import Record
from tlx.metrics.classification import accuracy
from tlx.metrics.resampling import mean_of
from tlx.tasks.classification import class_terms
from tlx.tasks.shared.base import Batch, Item, Prediction, Scores, Task, TaskModule, TaskSpec, encode_columns
from tlx.tasks.shared.heads import TaskHeads, at_place, hidden_states, language_model
from tlx.tasks.shared.inputs import KINDS, input_row
from tlx.tasks.shared.labels import class_of, names_of
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class MultipleChoice:
    """context: columns of what the choices share, joined by a space. choices: columns of the choices, in
    order. label: the column that says which is right, by one of `labels`, which stand for the choices in
    order; (): the training records' own, sorted."""

    name: str = "multiple_choice"
    context: tuple[str, ...] = ("context",)
    choices: tuple[str, ...] = ("choice1", "choice2")
    label: str = "label"
    labels: tuple[str, ...] = ()

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        if len(self.choices) < 2 or not self.context:
            raise ConfigError(
                f"objective.choices = {self.choices} must be two columns or more, "
                f"objective.context = {self.context} one or more"
            )
        if self.labels and len(self.labels) != len(self.choices):
            raise ConfigError(
                f"objective.labels = {self.labels} must stand for the {len(self.choices)} choices in order"
            )


def complete(config: MultipleChoice, records: Sequence[Record]) -> MultipleChoice:
    """The config with what its choices are called."""
    if config.labels:
        return config
    found = dataclasses.replace(config, labels=names_of(records, config.label))
    found.validate()
    return found


def texts(config: MultipleChoice) -> tuple[tuple[str, str], ...]:
    """All columns with text."""
    shared = tuple((name, "objective.context") for name in config.context)
    return shared + tuple((name, "objective.choices") for name in config.choices)


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[Item]:
    """An item for each record: the context, then the choices."""
    config = spec.config
    shared = [
        " ".join(record.text(name, "objective.context") for name in config.context) for record in records
    ]
    joined = [
        record._replace(values={**record.values, _SHARED: text})
        for record, text in zip(records, shared, strict=True)
    ]
    columns = ((_SHARED, "objective.context"), *((name, "objective.choices") for name in config.choices))
    encoded = encode_columns(joined, columns, tokenizer)
    found = [class_of(record, config.label, config.labels) if labelled else None for record in records]
    return [Item(*pair, number) for number, pair in enumerate(zip(encoded, found, strict=True))]


_SHARED = "all of the context"


def blank(spec: TaskSpec) -> Item:
    """An item of empty texts."""
    return Item((np.zeros(0, np.int32),) * (1 + len(spec.config.choices)), None)


def example(rng: np.random.Generator, item: Item, spec: TaskSpec) -> dict[str, np.ndarray]:
    """A row for each choice [R, length]; label and weights []."""
    del rng
    context, *choices = item.texts
    rows = [input_row((context, choice), spec) for choice in choices]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return arrays | {"label": np.asarray(item.label or 0, np.int32), "weights": np.ones((), np.float32)}


class ChoiceModule(TaskModule):
    """A model of any shape and a head with one output for each row."""

    def setup(self):
        self.lm = language_model(self.model)
        self.heads = TaskHeads(self.model, self.config.name, 1)

    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """logits [B, R]."""
        hidden_BRD = at_place(hidden_states(self.lm, batch, keys), batch["place"])
        return {"logits": self.heads(hidden_BRD, keys)[..., 0]}

    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Terms "loss" and "accuracy"."""
        return class_terms(outputs["logits"], batch, False, self.loss.label_smoothing)


def answers(outputs: Mapping[str, np.ndarray], items: Sequence[Item], spec: TaskSpec) -> list[Prediction]:
    """{"label", "probabilities" of the choices}."""
    del items
    logits = outputs["logits"].astype(np.float64)
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows /= rows.sum(axis=1, keepdims=True)
    return [
        {"label": spec.config.labels[int(row.argmax())], "probabilities": [round(float(p), 4) for p in row]}
        for row in rows
    ]


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """Accuracy."""
    config = spec.config
    true = np.array([class_of(record, config.label, config.labels) for record in records])
    predicted = np.array([config.labels.index(answer["label"]) for answer in answers])
    floor = float(np.bincount(true).max() / len(true))
    return Scores({"accuracy": accuracy(predicted, true)}, "accuracy", mean_of(predicted == true), floor)


TASK = Task(MultipleChoice, complete, texts, prepare, blank, example, ChoiceModule, answers, score, KINDS)
