"""Which of a few texts goes on, or answers, best: causes and effects, endings, reading tests.

Each choice is a row after what all share (the context, and a question where there is one); a head gives
each row a number, and the softmax over the rows is the answer (Radford et al. 2018, 3.3). A decoder may keep
its language model loss on all the rows beside it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics.classification import accuracy
from tlx.metrics.resampling import mean_of
from tlx.tasks.classification import class_terms, softmax
from tlx.tasks.shared.base import (
    Batch,
    Columns,
    Item,
    Prediction,
    Scores,
    Task,
    TaskModule,
    TaskSpec,
    check_texts,
    encode_columns,
)
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model, select_place
from tlx.tasks.shared.inputs import ENCODING_KINDS, input_row
from tlx.tasks.shared.labels import check_label, class_of, names_of
from tlx.tasks.shared.language_model_loss import check_lm_loss_weight, language_model_loss
from tlx.tasks.shared.soft_losses import class_divergences, weighted
from tlx.text.tokenizer import Tokenizer

_CONTEXT = "all of the context"  # a column that no file has


@dataclasses.dataclass(frozen=True)
class MultipleChoice:
    """Columns of the context, the choices and the label."""

    name: str = "multiple_choice"
    """Name in the table of tasks."""
    context: tuple[str, ...] = ("context",)
    """Columns of what the choices share, joined by a space."""
    choices: tuple[str, ...] = ("choice1", "choice2")
    """Columns of the choices, in order; two or more."""
    label: str = "label"
    """Column that says which is right, by one of `labels`."""
    labels: tuple[str, ...] = ()
    """Labels of the choices, in order; () takes the training records' labels, sorted."""

    lm_loss_weight: float = 0.0
    """Weight of the language model's loss on the rows, decoders only (Radford et al. 2018: 0.5); 0: none."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        check_lm_loss_weight(self.lm_loss_weight)
        if len(self.choices) < 2 or not self.context:
            raise ConfigError(
                f"objective.choices = {self.choices} must be two columns or more, "
                f"objective.context = {self.context} one or more"
            )
        if self.labels and len(self.labels) != len(self.choices):
            raise ConfigError(
                f"objective.labels = {self.labels} must stand for the {len(self.choices)} choices in order"
            )


class ChoiceModule(TaskModule):
    """A model of any kind and a head with one output for each row."""

    can_distill = True

    def setup(self) -> None:
        """Build the language model and the head."""
        self.lm = language_model(self.model)
        self.heads = TaskHeads(self.model, self.config.name, 1)

    @override
    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return logits [B, K]."""
        return self._logits(hidden_states(self.lm, batch, keys, self.heads), batch, keys)

    @override
    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the terms "loss" and "accuracy"."""
        return class_terms(outputs["logits"], batch, False, self.loss.label_smoothing)

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the base class's terms, and "lm_loss" where the config asks for it."""
        weight = self.config.lm_loss_weight
        if not weight or self.model.kind != "decoder":
            return super().__call__(batch, carry, keys)
        hidden = hidden_states(self.lm, batch, keys)
        terms = self.terms(self._logits(hidden, batch, keys), batch)
        return terms | {"lm_loss": language_model_loss(self.lm, hidden, batch, self.loss, weight)}, None

    @override
    def soft_loss(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Term:
        """Return the divergence of the choices."""
        values = class_divergences(student["logits"], teacher["logits"], temperature)
        return weighted(values, batch["weights"], temperature)

    def _logits(self, hidden: jax.Array, batch: Batch, keys: jax.Array | None) -> dict[str, jax.Array]:
        hidden_BKD = select_place(hidden, batch["place"])
        return {"logits": self.heads(hidden_BKD, keys)[..., 0]}


class MultipleChoiceTask(Task):
    """A context, the best of some texts."""

    config_class = MultipleChoice
    module = ChoiceModule
    kinds = ENCODING_KINDS

    @override
    def infer_labels(self, config: MultipleChoice, records: Sequence[Record]) -> MultipleChoice:
        """Return the config with what its choices are called."""
        if config.labels:
            return config
        config = dataclasses.replace(config, labels=names_of(records, config.label))
        config.validate()
        return config

    @override
    def text_columns(self, config: MultipleChoice) -> Columns:
        """Return all columns with text."""
        context = tuple((name, "objective.context") for name in config.context)
        return context + tuple((name, "objective.choices") for name in config.choices)

    @override
    def check_record(self, config: MultipleChoice, record: Record) -> None:
        """Raise DataError where a text or the label is missing or not valid."""
        check_texts(record, self.text_columns(config))
        check_label(record, config.label, config.labels)

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[Item]:
        """Make an item of each record: the context, then the choices."""
        config = spec.config
        contexts = [
            " ".join(record.text(name, "objective.context") for name in config.context) for record in records
        ]
        joined = [
            record._replace(values={**record.values, _CONTEXT: context})
            for record, context in zip(records, contexts, strict=True)
        ]
        choices = [(name, "objective.choices") for name in config.choices]
        texts = encode_columns(joined, [(_CONTEXT, "objective.context"), *choices], tokenizer)
        labels = [class_of(record, config.label, config.labels) if labelled else None for record in records]
        return [
            Item(pair, label, index) for index, (pair, label) in enumerate(zip(texts, labels, strict=True))
        ]

    @override
    def empty_item(self, spec: TaskSpec) -> Item:
        """Return an item of empty texts."""
        return Item((np.zeros(0, np.int32),) * (1 + len(spec.config.choices)), None)

    @override
    def example(self, rng: np.random.Generator, item: Item, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make a row for each choice.

        item: The context and the choices, and the label.

        Returns:
            The rows' arrays [K, length]; label and weights [].
        """
        del rng
        context, *choices = item.texts
        rows = [input_row((context, choice), spec) for choice in choices]
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return arrays | {"label": np.asarray(item.label or 0, np.int32), "weights": np.ones((), np.float32)}

    @override
    def predictions(
        self, outputs: Mapping[str, np.ndarray], items: Sequence[Item], spec: TaskSpec
    ) -> list[Prediction]:
        """Make predictions of logits.

        outputs: "logits" [items, K].

        Returns:
            {"label", "probabilities" of the choices}.
        """
        del items
        return [
            {
                "label": spec.config.labels[int(row.argmax())],
                "probabilities": [round(float(p), 4) for p in row],
            }
            for row in softmax(outputs["logits"].astype(np.float64))
        ]

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute the accuracy."""
        config = spec.config
        true = np.array([class_of(record, config.label, config.labels) for record in records])
        predicted = np.array([config.labels.index(prediction["label"]) for prediction in predictions])
        baseline = float(np.bincount(true).max() / len(true))
        figures = {"accuracy": accuracy(predicted, true)}
        return Scores(figures, "accuracy", mean_of(predicted == true), baseline)


TASK = MultipleChoiceTask()
