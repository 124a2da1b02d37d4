"""How alike two texts are, a number: STS.

The loss is the mean square of the error in units of the scale from `low` to `high`. A decoder reads the pair
in both orders, whose hidden states are added before the head (Radford et al. 2018, 3.3), for the order of a
pair of likes means nothing; other shapes see both texts from both sides and read one.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics.correlation import pearson, spearman
from tlx.tasks.shared.base import Batch, Item, Prediction, Scores, Task, TaskModule, TaskSpec, encode_columns
from tlx.tasks.shared.heads import TaskHeads, at_place, hidden_states, language_model
from tlx.tasks.shared.inputs import KINDS, input_row
from tlx.tasks.shared.labels import number_of
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Similarity:
    """first, second: the columns that have the texts. label: the one with the number.
    min_score, max_score: its ends."""

    name: str = "similarity"
    first: str = "sentence1"
    second: str = "sentence2"
    label: str = "score"
    min_score: float = 0.0
    max_score: float = 5.0

    def validate(self) -> None:
        """Raises ConfigError for a scale without extent."""
        if not self.min_score < self.max_score:
            raise ConfigError(
                f"objective.min_score = {self.min_score} must be below objective.max_score = {self.max_score}"
            )


def texts(config: Similarity) -> tuple[tuple[str, str], ...]:
    """Both columns."""
    return ((config.first, "objective.first"), (config.second, "objective.second"))


def complete(config: Similarity, records: Sequence[Record]) -> Similarity:
    """Nothing is left open."""
    return config


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[Item]:
    """An item for each record, its label a number on the scale from 0 to 1."""
    config, encoded = spec.config, encode_columns(records, texts(spec.config), tokenizer)
    numbers = [number_of(record, config.label) if labelled else config.min_score for record in records]
    units = [(number - config.min_score) / (config.max_score - config.min_score) for number in numbers]
    return [Item(*pair, number) for number, pair in enumerate(zip(encoded, units, strict=True))]


def blank(spec: TaskSpec) -> Item:
    """An item of empty texts."""
    return Item((np.zeros(0, np.int32),) * 2, 0.0)


def example(rng: np.random.Generator, item: Item, spec: TaskSpec) -> dict[str, np.ndarray]:
    """The row of both texts, for a decoder [2, T]: the rows of both orders; label and weights []."""
    del rng
    arrays = input_row(item.texts, spec)
    if spec.kind == "decoder":
        other = input_row(item.texts[::-1], spec)
        arrays = {name: np.stack([arrays[name], other[name]]) for name in arrays}
    return arrays | {"label": np.asarray(item.label, np.float32), "weights": np.ones((), np.float32)}


class SimilarityModule(TaskModule):
    """A model of any shape and a head with one output."""

    def setup(self):
        self.lm = language_model(self.model)
        self.heads = TaskHeads(self.model, self.config.name, 1)

    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """number [B], on the scale from 0 to 1."""
        hidden = at_place(hidden_states(self.lm, batch, keys), batch["place"])
        if hidden.ndim == 3:
            hidden = jnp.sum(hidden, axis=1)
        return {"number": self.heads(hidden, keys)[:, 0]}

    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """The term "loss"."""
        errors, weights = outputs["number"] - batch["label"], batch["weights"]
        return {"loss": Term(jnp.sum(jnp.square(errors) * weights), jnp.sum(weights), 1.0)}


def answers(outputs: Mapping[str, np.ndarray], items: Sequence[Item], spec: TaskSpec) -> list[Prediction]:
    """{"score": the number on the records' scale}."""
    del items
    low, high = spec.config.min_score, spec.config.max_score
    return [{"score": round(low + float(unit) * (high - low), 4)} for unit in outputs["number"]]


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """Pearson's and Spearman's correlation, and the root mean square of the error."""
    true = np.array([number_of(record, spec.config.label) for record in records])
    predicted = np.array([answer["score"] for answer in answers])
    figures = {
        "spearman": spearman(predicted, true),
        "pearson": pearson(predicted, true),
        "rmse": float(np.sqrt(np.mean(np.square(predicted - true)))),
    }
    return Scores(figures, "spearman", lambda chosen: spearman(predicted[chosen], true[chosen]))


TASK = Task(Similarity, complete, texts, prepare, blank, example, SimilarityModule, answers, score, KINDS)
