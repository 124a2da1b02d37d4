"""Which class, or which classes, a text belongs to: reviews, intents, topics.

The hidden state that speaks for the row (rows.py) goes through a head to a softmax over the classes, or
with `multi` to a sigmoid for each. A decoder may keep its language model loss beside it (Radford et al. 2018:
half of it).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics import classification as metrics
from tlx.metrics.picture import draw_confusion
from tlx.metrics.resampling import mean_of
from tlx.nn.losses import cross_entropy
from tlx.tasks.shared.base import Batch, Item, Prediction, Scores, Task, TaskModule, TaskSpec, encode_columns
from tlx.tasks.shared.heads import TaskHeads, at_place, hidden_states, language_model, mean_over
from tlx.tasks.shared.inputs import KINDS, input_row
from tlx.tasks.shared.labels import class_of, classes_of, names_of
from tlx.tasks.shared.packed_examples import JoinedItems, join, joined_row, size
from tlx.text.tokenizer import Tokenizer

_LISTED = 10  # classes up to which each one's F1 is among the figures


@dataclasses.dataclass(frozen=True)
class Classes:
    """label: the column that has it. labels: names of the classes in order; (): those of the training
    records, sorted. multi_label: any number of classes, a list or a text cut by `separator`. lm_loss_weight:
    of the language model's loss on the same row, for decoders. packing: a row of training holds as many
    examples as fit it (joined.py), so that train.batch_size counts rows of several. out_of_scope_label: the
    class of what belongs to none of the others; "": there is none. pooling: what the head reads, the hidden
    state of one place (cls of an encoder, the last of others), or the mean over all places, which a base
    whose objective says nothing of whole texts has better prepared (Reimers and Gurevych 2019, 6)."""

    label: str = "label"
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    separator: str = ","
    lm_loss_weight: float = 0.0
    packing: bool = False
    out_of_scope_label: str = ""
    pooling: Literal["token", "mean"] = "token"

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        if len(set(self.labels)) != len(self.labels) or len(self.labels) == 1:
            raise ConfigError(f"objective.labels = {self.labels} must be two or more, none of them twice")
        if self.lm_loss_weight < 0:
            raise ConfigError(f"objective.lm_loss_weight = {self.lm_loss_weight} must not be negative")
        if self.multi_label and not self.separator:
            raise ConfigError("objective.separator is empty; it cuts a text into its labels")
        if self.multi_label and self.out_of_scope_label:
            raise ConfigError(
                "objective.out_of_scope_label is for one label a record; with "
                "objective.multi_label have no label"
            )
        if self.labels and self.out_of_scope_label and self.out_of_scope_label not in self.labels:
            raise ConfigError(
                f"objective.out_of_scope_label = {self.out_of_scope_label!r} is none of the classes: "
                f"{', '.join(self.labels)}"
            )

    @property
    def cut(self) -> str | None:
        """What separates labels; None where there is one."""
        return self.separator if self.multi_label else None


@dataclasses.dataclass(frozen=True)
class Classification(Classes):
    """text: the column that has it."""

    name: str = "classification"
    text: str = "text"


def texts(config: Classification) -> tuple[tuple[str, str], ...]:
    """The one column."""
    return ((config.text, "objective.text"),)


def complete(config: Classes, records: Sequence[Record]) -> Classes:
    """The config with the names of its classes."""
    if config.labels:
        return config
    names = names_of(records, config.label, config.cut)
    rest = (
        [config.out_of_scope_label]
        if config.out_of_scope_label and config.out_of_scope_label not in names
        else []
    )
    return dataclasses.replace(config, labels=(*names, *rest))


def items_of(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, columns: Any, labelled: bool = True
) -> list[Item] | list[JoinedItems]:
    """An item for each record: its texts and its class, or the 0 and 1 of each class."""
    encoded = encode_columns(records, columns, tokenizer)
    found = [label_of(record, spec.config) if labelled else None for record in records]
    items = [Item(*pair, number) for number, pair in enumerate(zip(encoded, found, strict=True))]
    return [JoinedItems((item,), item.record) for item in items] if spec.config.packing else items


def label_of(record: Record, config: Classes) -> int | np.ndarray:
    """The record's class, or the 0 and 1 of each class."""
    if config.multi_label:
        return classes_of(record, config.label, config.separator, config.labels)
    return class_of(record, config.label, config.labels)


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[Item] | list[JoinedItems]:
    """An item for each record."""
    return items_of(records, tokenizer, spec, texts(spec.config), labelled)


def blank(spec: TaskSpec, count: int = 1) -> Item | JoinedItems:
    """An item of empty texts, or of none."""
    return JoinedItems(()) if spec.config.packing else _empty(count)


def _empty(count: int) -> Item:
    return Item((np.zeros(0, np.int32),) * count, None)


def example(
    rng: np.random.Generator, item: Item | JoinedItems, spec: TaskSpec, count: int = 1
) -> dict[str, np.ndarray]:
    """The row of the item's texts; label [] int32 or [C] float32; weights []. Joined: a dim more."""
    del rng
    if isinstance(item, JoinedItems):
        return joined_row(item, spec, partial(_labels, config=spec.config), _empty(count))
    return input_row(item.texts, spec) | _labels(item, spec.config)


def _labels(item: Item, config: Classes) -> dict[str, np.ndarray]:
    return labelled_as(item.label, config)


def labelled_as(label: Any, config: Classes) -> dict[str, np.ndarray]:
    """The arrays `label` and `weights`."""
    none = np.zeros(max(len(config.labels), 2), np.float32) if config.multi_label else 0
    value = none if label is None else label
    dtype = np.float32 if config.multi_label else np.int32
    return {"label": np.asarray(value, dtype), "weights": np.ones((), np.float32)}


class ClassesModule(TaskModule):
    """A model of any shape and a head over classes."""

    def setup(self):
        self.lm = language_model(self.model)
        self.heads = TaskHeads(self.model, self.config.name, max(len(self.config.labels), 2))

    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """logits [B, C]; [B, M, C] where rows hold several examples."""
        return self._logits(hidden_states(self.lm, batch, keys), batch, keys)

    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Terms "loss" and "accuracy"."""
        return class_terms(outputs["logits"], batch, self.config.multi_label, self.loss.label_smoothing)

    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """As the base; and "lm_loss" where it is asked for."""
        if not self.config.lm_loss_weight or self.model.kind != "decoder":
            return super().__call__(batch, carry, keys)
        hidden = hidden_states(self.lm, batch, keys)
        terms = self.terms(self._logits(hidden, batch, keys), batch)
        return terms | {"lm_loss": self._lm_loss(hidden, batch)}, None

    def _logits(self, hidden: jax.Array, batch: Batch, keys: jax.Array | None) -> dict[str, jax.Array]:
        return {"logits": self.heads(self._pooled(hidden, batch), keys)}

    def _pooled(self, hidden_BTD: jax.Array, batch: Batch) -> jax.Array:
        """[B, D]; [B, M, D] of M examples a row."""
        place = batch["place"]
        if self.config.pooling == "token":
            return at_place(hidden_BTD, place)
        segments = batch["decoder_segments" if self.model.kind == "encoder_decoder" else "segments"]
        means = mean_over(hidden_BTD, segments, place.shape[1] if place.ndim == 2 else 1)
        return means if place.ndim == 2 else means[:, 0]

    def _lm_loss(self, hidden_BTD: jax.Array, batch: Batch) -> Term:
        segments, weights = batch["segments"], batch["weights"]
        rows_B = weights if weights.ndim == 1 else jnp.max(weights, axis=1)
        real = (segments[:, 1:] > 0) * (segments[:, 1:] == segments[:, :-1]) * rows_B[:, None]
        real = real * (batch["tokens"][:, 1:] < self.model.padded_vocab)  # a trained prompt is no target
        args = (hidden_BTD[:, :-1], self.lm.unembedding(), batch["tokens"][:, 1:], real, self.loss)
        return cross_entropy(*args)["loss"]._replace(loss_weight=self.config.lm_loss_weight)


def class_terms(logits: jax.Array, batch: Batch, multi: bool, smoothing: float = 0.0) -> Terms:
    """Cross-entropy of classes; of sets of them the mean of the binary ones. logits [B, C] or [B, M, C]."""
    label, weights = batch["label"], batch["weights"]
    count = jnp.sum(weights)
    if multi:
        losses = jnp.mean(jax.nn.softplus(logits) - label * logits, axis=-1)
        hits = jnp.all((logits > 0) == (label > 0), axis=-1)
    else:
        log_p = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]
        losses = -(1 - smoothing) * chosen - smoothing * jnp.mean(log_p, axis=-1)
        hits = jnp.argmax(log_p, axis=-1) == label
    return {
        "loss": Term(jnp.sum(losses * weights), count, 1.0),
        "accuracy": Term(jnp.sum(hits * weights), count),
    }


def answers(outputs: Mapping[str, np.ndarray], items: Sequence[Item], spec: TaskSpec) -> list[Prediction]:
    """{"label", "probability"}, or {"labels", "probabilities" of all classes}."""
    del items
    logits, names = outputs["logits"].astype(np.float64), spec.config.labels
    if spec.config.packing:
        logits = logits[:, 0]  # what is evaluated stands alone
    if spec.config.multi_label:
        rows = 1 / (1 + np.exp(-logits))
        return [
            {
                "labels": [name for name, p in zip(names, row, strict=True) if p > 0.5],
                "probabilities": {name: round(float(p), 4) for name, p in zip(names, row, strict=True)},
            }
            for row in rows
        ]
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows /= rows.sum(axis=1, keepdims=True)
    best = rows.argmax(axis=1)
    return [
        {"label": names[index], "probability": round(float(row[index]), 4)}
        for index, row in zip(best, rows, strict=True)
    ]


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """Accuracy and F1s, where classes are few also each one's; of single labels Matthews' correlation."""
    predicted, true = labellings(answers, records, spec.config)
    count, names = len(spec.config.labels), spec.config.labels
    right = (predicted == true).reshape(len(true), -1).all(axis=1)
    figures = {
        "accuracy": metrics.accuracy(predicted, true),
        "f1_macro": metrics.macro(predicted, true, count).f1,
    }
    if spec.config.multi_label:
        figures["f1_micro"] = metrics.micro(predicted, true, count).f1  # of single labels the accuracy
    else:
        figures["matthews"] = metrics.matthews(predicted, true)
    if count <= _LISTED:
        each = metrics.per_class(predicted, true, count).f1
        figures |= {f"f1/{name}": float(f1) for name, f1 in zip(names, each, strict=True)}
    if spec.config.out_of_scope_label:
        figures |= _scope(predicted, true, names.index(spec.config.out_of_scope_label))
    if not spec.config.multi_label:
        return Scores(figures, "accuracy", mean_of(right), float(np.bincount(true).max() / len(true)))
    return Scores(
        figures, "f1_micro", lambda chosen: metrics.micro(predicted[chosen], true[chosen], count).f1
    )


def _scope(predicted: np.ndarray, true: np.ndarray, outside: int) -> dict[str, float]:
    """Accuracy where a class applies, and the share of what is outside that is found (Larson et al. 2019)."""
    belongs, right = true != outside, predicted == true
    shares = {"in_scope_accuracy": right[belongs], "out_of_scope_recall": right[~belongs]}
    return {name: float(share.mean()) for name, share in shares.items() if len(share)}


def labellings(
    answers: Sequence[Prediction], records: Sequence[Record], config: Classes
) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, true): int [N], or bool [N, C]."""
    true = np.array([label_of(record, config) for record in records])
    if config.multi_label:
        chosen = [[name in answer["labels"] for name in config.labels] for answer in answers]
        return np.array(chosen), true > 0
    numbers = {name: number for number, name in enumerate(config.labels)}
    return np.array([numbers[answer["label"]] for answer in answers]), true


def draw(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec, path: Any) -> None:
    """The confusion matrix; nothing for sets of labels."""
    if not spec.config.multi_label:
        predicted, true = labellings(answers, records, spec.config)
        count = len(spec.config.labels)
        draw_confusion(metrics.confusion(predicted, true, count), spec.config.labels, path)


TASK = Task(
    Classification,
    complete,
    texts,
    prepare,
    blank,
    example,
    ClassesModule,
    answers,
    score,
    KINDS,
    draw,
    size=size,
    join=join,
)
