"""Semantic similarity of two texts, a number: STS.

The loss is the mean square of the error in units of the scale from `min_score` to `max_score`. A decoder
reads the pair in both orders, whose hidden states are added before the head (Radford et al. 2018, 3.3), for
the order of a pair of likes means nothing; other kinds see both texts from both sides and read one. A decoder may
keep its language model loss on both orders beside it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics.correlation import pearson, spearman
from tlx.models.heads import TaskHeadConfig
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
from tlx.tasks.shared.labels import number_of
from tlx.tasks.shared.language_model_loss import check_lm_loss_weight, language_model_loss
from tlx.tasks.shared.soft_losses import weighted
from tlx.text.tokenizer import Tokenizer


def check_scale(min_score: float, max_score: float) -> None:
    """Raise ConfigError for a scale without extent."""
    if not min_score < max_score:
        raise ConfigError(
            f"objective.min_score = {min_score} must be below objective.max_score = {max_score}"
        )


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Columns of the pair, and the scale of its label."""

    name: str = "similarity"
    """Name in the table of tasks."""
    first: str = "sentence1"
    """Column with the first text."""
    second: str = "sentence2"
    """Column with the second text."""
    label: str = "score"
    """Column with the number."""
    min_score: float = 0.0
    """Lower end of the scale."""
    max_score: float = 5.0
    """Upper end of the scale."""
    head: TaskHeadConfig = dataclasses.field(default_factory=TaskHeadConfig)
    """Layers of the head."""
    frame: Literal["model", "tlx", "tokenizer"] = "model"
    """Special ids of a row: "model", those that the base model was trained with; "tlx" (inputs.py), those of fresh
    parameters; or "tokenizer", as an imported tokenizer's own template has them, which is how models imported with
    their head were trained."""

    lm_loss_weight: float = 0.0
    """Weight of the language model's loss on the rows, decoders only (Radford et al. 2018: 0.5); 0: none."""

    def validate(self) -> None:
        """Raise ConfigError for a scale without extent and for a negative weight."""
        check_lm_loss_weight(self.lm_loss_weight)
        check_scale(self.min_score, self.max_score)


class SimilarityModule(TaskModule):
    """A model of any kind and a head with one output."""

    can_distill = True

    def setup(self) -> None:
        """Build the language model and the head."""
        self.lm = language_model(self.model)
        self.heads = TaskHeads(self.model, self.config.name, 1, shape=self.config.head)

    @override
    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return number [B], on the scale from 0 to 1."""
        return self._number(hidden_states(self.lm, batch, keys, self.heads), batch, keys)

    @override
    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the term "loss"."""
        errors = outputs["number"] - batch["label"]
        weights = batch["weights"]
        return {"loss": Term(jnp.sum(jnp.square(errors) * weights), jnp.sum(weights), 1.0)}

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the base class's terms, and "lm_loss" where the config asks for it."""
        weight = self.config.lm_loss_weight
        if not weight or self.model.kind != "decoder":
            return super().__call__(batch, carry, keys)
        hidden = hidden_states(self.lm, batch, keys)
        terms = self.terms(self._number(hidden, batch, keys), batch)
        return terms | {"lm_loss": language_model_loss(self.lm, hidden, batch, self.loss, weight)}, None

    @override
    def soft_loss(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Term:
        """Return the squared difference of the numbers; a number has no temperature."""
        del temperature
        return weighted(jnp.square(student["number"] - teacher["number"]), batch["weights"], 1.0)

    def _number(self, hidden: jax.Array, batch: Batch, keys: jax.Array | None) -> dict[str, jax.Array]:
        hidden = select_place(hidden, batch["place"])
        if hidden.ndim == 3:  # both orders of a pair
            hidden = jnp.sum(hidden, axis=1)
        return {"number": self.heads(hidden, keys)[:, 0]}


class SimilarityTask(Task):
    """Two texts, a number."""

    config_class = Similarity
    module = SimilarityModule
    kinds = ENCODING_KINDS

    @override
    def text_columns(self, config: Similarity) -> Columns:
        """Return both columns."""
        return ((config.first, "objective.first"), (config.second, "objective.second"))

    @override
    def check_record(self, config: Similarity, record: Record) -> None:
        """Raise DataError where a text or the number is missing or not valid."""
        check_texts(record, self.text_columns(config))
        number_of(record, config.label)

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[Item]:
        """Make an item of each record, its label a number on the scale from 0 to 1."""
        config = spec.config
        texts = encode_columns(records, self.text_columns(config), tokenizer)
        numbers = [number_of(record, config.label) if labelled else config.min_score for record in records]
        labels = [(number - config.min_score) / (config.max_score - config.min_score) for number in numbers]
        return [
            Item(pair, label, index) for index, (pair, label) in enumerate(zip(texts, labels, strict=True))
        ]

    @override
    def empty_item(self, spec: TaskSpec) -> Item:
        """Return an item of empty texts."""
        return Item((np.zeros(0, np.int32),) * len(self.text_columns(spec.config)), 0.0)

    @override
    def example(self, rng: np.random.Generator, item: Item, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make the row of both texts; for decoders [2, length], the rows of both orders.

        item: The texts and their label.

        Returns:
            The row's arrays; label and weights [].
        """
        del rng
        arrays = input_row(item.texts, spec)
        # A template is the form in which a model was trained by others: with the pair in one order.
        if spec.kind == "decoder" and spec.config.frame != "tokenizer" and len(item.texts) == 2:
            swapped = input_row(item.texts[::-1], spec)
            arrays = {name: np.stack([arrays[name], swapped[name]]) for name in arrays}
        return arrays | {"label": np.asarray(item.label, np.float32), "weights": np.ones((), np.float32)}

    @override
    def predictions(
        self, outputs: Mapping[str, np.ndarray], items: Sequence[Item], spec: TaskSpec
    ) -> list[Prediction]:
        """Make predictions of numbers.

        outputs: "number" [items], on the scale from 0 to 1.

        Returns:
            {"score": the number on the records' scale}.
        """
        del items
        config = spec.config
        return [
            {"score": round(config.min_score + float(unit) * (config.max_score - config.min_score), 4)}
            for unit in outputs["number"]
        ]

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute Pearson's and Spearman's correlation, and the root mean square of the error."""
        true = np.array([number_of(record, spec.config.label) for record in records])
        predicted = np.array([prediction["score"] for prediction in predictions])
        figures = {
            "spearman": spearman(predicted, true),
            "pearson": pearson(predicted, true),
            "rmse": float(np.sqrt(np.mean(np.square(predicted - true)))),
        }
        return Scores(figures, "spearman", lambda chosen: spearman(predicted[chosen], true[chosen]))


TASK = SimilarityTask()
