"""Which class, or which classes, a text belongs to: reviews, intents, topics.

The hidden state that represents the row (inputs.py) goes through a head to a softmax over the classes, or
with `multi_label` to a sigmoid for each. A decoder may keep its language model loss beside it (Radford et al.
2018: half of it).
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics import classification as metrics
from tlx.metrics.calibration import expected_calibration_error, reliability
from tlx.metrics.picture import draw_confusion, draw_reliability
from tlx.metrics.resampling import mean_of
from tlx.models.heads import TaskHeadConfig
from tlx.tasks.shared.base import (
    Batch,
    Columns,
    Item,
    Prediction,
    Scores,
    TaskModule,
    TaskSpec,
    check_texts,
    encode_columns,
    languages_of,
)
from tlx.tasks.shared.class_weights import (
    BALANCED,
    balanced_set_weights,
    balanced_weights,
    check_weights,
    numeric_weights,
    weighted_cross_entropy,
)
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model, mean_over, select_place
from tlx.tasks.shared.inputs import ENCODING_KINDS, input_row
from tlx.tasks.shared.labels import check_label, class_of, classes_of, names_of
from tlx.tasks.shared.language_model_loss import check_lm_loss_weight, language_model_loss
from tlx.tasks.shared.packed_examples import JoinedItems, PackableTask, joined_row
from tlx.tasks.shared.soft_losses import binary_divergences, class_divergences, weighted
from tlx.text.tokenizer import Tokenizer

_LISTED = 10  # classes up to which each one's F1 is among the figures


@dataclasses.dataclass(frozen=True)
class Classes:
    """Labels of records, and how rows are made and represented."""

    label: str = "label"
    """Column with the label."""
    language: str = ""
    """Column with the language of the text, of its control code or its mode, for a base model that was trained with
    those; "" is the default of the base model."""
    second_language: str = ""
    """Column with the same of a second text; "" is that of the first."""
    labels: tuple[str, ...] = ()
    """Names of the classes in order; () is those of the training records, sorted."""
    multi_label: bool = False
    """Whether a record has any number of classes, as a list or as a text that `separator` cuts."""
    separator: str = ","
    """Separator of the classes in a text."""
    figures_by: str = ""
    """Column by whose values the accuracy of single labels is given too, such as the language of XNLI's records."""
    lm_loss_weight: float = 0.0
    """Weight of the language model's loss on the same row, for decoders; 0 leaves it out."""
    packing: bool = False
    """Whether a row of training holds as many examples as fit it (packed_examples.py); train.batch_size then
    counts rows of several."""
    out_of_scope_label: str = ""
    """Class of records that belong to none of the others; "" is none."""
    pooling: Literal["token", "mean"] = "token"
    """Input of the head: the hidden state of one position (cls of an encoder, the last of others), or the
    mean over all, for which a base model whose objective has no sentence representation is better prepared
    (Reimers and Gurevych 2019, section 6)."""
    class_weights: tuple[float | str, ...] = ()
    """Weight of each class in the loss, in the order of `labels`: numbers above 0, or "balanced", records / (classes
    x records of the class), which becomes numbers when the run starts; () is 1 for all. A batch's loss is divided
    by the sum of its weights. Of several labels a record they multiply the loss where a class is present, and
    "balanced" is the ratio of the records without it to those with it."""
    head: TaskHeadConfig = dataclasses.field(default_factory=TaskHeadConfig)
    """Layers of the head."""
    frame: Literal["model", "tlx", "tokenizer"] = "model"
    """Special ids of a row: "model", those that the base model was trained with; "tlx" (inputs.py), those of fresh
    parameters; or "tokenizer", as an imported tokenizer's own template has them, which is how models imported with
    their head were trained."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        if len(set(self.labels)) != len(self.labels) or len(self.labels) == 1:
            raise ConfigError(f"objective.labels = {self.labels} must be two or more, none of them twice")
        check_lm_loss_weight(self.lm_loss_weight)
        if self.multi_label and not self.separator:
            raise ConfigError("objective.separator is empty; it cuts a text into its labels")
        if self.multi_label and self.out_of_scope_label:
            raise ConfigError(
                "objective.out_of_scope_label is for one label a record; with objective.multi_label have no "
                "label"
            )
        check_weights(self.class_weights, len(self.labels))
        if self.labels and self.out_of_scope_label and self.out_of_scope_label not in self.labels:
            raise ConfigError(
                f"objective.out_of_scope_label = {self.out_of_scope_label!r} is none of the classes: "
                + ", ".join(self.labels)
            )

    @property
    def label_separator(self) -> str | None:
        """Return the separator of labels; None where a record has one label."""
        return self.separator if self.multi_label else None


@dataclasses.dataclass(frozen=True)
class Classification(Classes):
    """Classes of one text."""

    name: str = "classification"
    """Name in the table of tasks."""
    text: str = "text"
    """Column with the text."""


def label_of(record: Record, config: Classes) -> int | np.ndarray:
    """Return the index of a record's class, or the 0 and 1 of each class."""
    if config.multi_label:
        return classes_of(record, config.label, config.separator, config.labels)
    return class_of(record, config.label, config.labels)


def label_arrays(item: Item, config: Classes) -> dict[str, np.ndarray]:
    """Return the arrays `label` [] int32, or [C] float32 of several labels, and `weights` []."""
    label = item.label
    if label is None:
        label = np.zeros(max(len(config.labels), 2), np.float32) if config.multi_label else 0
    dtype = np.float32 if config.multi_label else np.int32
    return {"label": np.asarray(label, dtype), "weights": np.ones((), np.float32)}


class ClassesModule(TaskModule):
    """A model of any kind and a head over classes."""

    can_distill = True

    def setup(self) -> None:
        """Build the language model and the head."""
        self.lm = language_model(self.model)
        self.heads = TaskHeads(
            self.model,
            self.config.name,
            max(len(self.config.labels), 2),
            shape=self.config.head,
            pooling=self.config.pooling,
        )

    @override
    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return logits [B, C]; [B, P, C] where rows hold several examples."""
        return self._logits(hidden_states(self.lm, batch, keys, self.heads), batch, keys)

    @override
    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the terms "loss" and "accuracy"."""
        logits = outputs["logits"]
        class_weights = numeric_weights(self.config.class_weights, logits.shape[-1])
        smoothing = self.loss.label_smoothing
        return class_terms(logits, batch, self.config.multi_label, smoothing, class_weights)

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the base class's terms, and "lm_loss" where the config asks for it."""
        if not self.config.lm_loss_weight or self.model.kind != "decoder":
            return super().__call__(batch, carry, keys)
        hidden = hidden_states(self.lm, batch, keys, self.heads)
        terms = self.terms(self._logits(hidden, batch, keys), batch)
        weight = self.config.lm_loss_weight
        return terms | {"lm_loss": language_model_loss(self.lm, hidden, batch, self.loss, weight)}, None

    @override
    def soft_loss(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Term:
        """Return the divergence of the classes; of sets of them the mean of the binary ones."""
        divergences = binary_divergences if self.config.multi_label else class_divergences
        values = divergences(student["logits"], teacher["logits"], temperature)
        return weighted(values, batch["weights"], temperature)

    def _logits(self, hidden: jax.Array, batch: Batch, keys: jax.Array | None) -> dict[str, jax.Array]:
        return {"logits": self.heads(self._pooled(hidden, batch), keys)}

    def _pooled(self, hidden_BTD: jax.Array, batch: Batch) -> jax.Array:
        """Return [B, D]; [B, P, D] of P examples a row."""
        place = batch["place"]
        if self.config.pooling == "token":
            return select_place(hidden_BTD, place)
        segments = batch["decoder_segments" if self.model.kind == "encoder_decoder" else "segments"]
        means = mean_over(hidden_BTD, segments, place.shape[1] if place.ndim == 2 else 1)
        return means if place.ndim == 2 else means[:, 0]


def class_terms(
    logits: jax.Array,
    batch: Batch,
    multi: bool,
    smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
) -> Terms:
    """Compute the cross-entropy of classes; of sets of them the mean of the binary ones.

    Class weights are those of PyTorch: `weight` of CrossEntropyLoss, also with label smoothing, and `pos_weight`
    of BCEWithLogitsLoss for sets.

    Args:
        logits: float32 [B, C] or [B, P, C].
        batch: Has `label` and `weights` [B] or [B, P].
        multi: Whether a label is a set of classes, float32 [..., C].
        smoothing: Label smoothing, of single labels.
        class_weights: Weight of each class, [C]; empty is 1 for all.

    Returns:
        The terms "loss" and "accuracy".
    """
    label = batch["label"]
    weights = batch["weights"]
    count = jnp.sum(weights)
    if multi:
        # The binary cross-entropy of logits, in the form that cannot overflow.
        losses_C = jax.nn.softplus(logits) - label * logits
        if class_weights:
            excess_C = jnp.asarray(class_weights, jnp.float32) - 1
            losses_C = losses_C + excess_C * label * jax.nn.softplus(-logits)
        loss = Term(jnp.sum(jnp.mean(losses_C, axis=-1) * weights), count, 1.0)
        hits = jnp.all((logits > 0) == (label > 0), axis=-1)
    else:
        loss = weighted_cross_entropy(logits, label, weights, smoothing, class_weights)
        hits = jnp.argmax(jax.nn.log_softmax(logits), axis=-1) == label
    return {"loss": loss, "accuracy": Term(jnp.sum(hits * weights), count)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of each row of logits, in their dtype."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def labellings(
    predictions: Sequence[Prediction], records: Sequence[Record], config: Classes
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and labels as arrays.

    Args:
        predictions: One for each record.
        records: The records, with labels.
        config: The classes.

    Returns:
        (predicted, true): int [N], or bool [N, C] of sets of labels.
    """
    true = np.array([label_of(record, config) for record in records])
    if config.multi_label:
        chosen = [[name in prediction["labels"] for name in config.labels] for prediction in predictions]
        return np.array(chosen), true > 0
    indices = {name: index for index, name in enumerate(config.labels)}
    return np.array([indices[prediction["label"]] for prediction in predictions]), true


class ClassificationTask(PackableTask):
    """One text, one class or several."""

    config_class = Classification
    module = ClassesModule
    kinds = ENCODING_KINDS

    @override
    def infer_labels(self, config: Classes, records: Sequence[Record]) -> Classes:
        """Return the config with the names of its classes, and numbers for balanced weights."""
        if not config.labels:
            names = names_of(records, config.label, config.label_separator)
            if config.out_of_scope_label and config.out_of_scope_label not in names:
                names = (*names, config.out_of_scope_label)
            config = dataclasses.replace(config, labels=names)
        check_weights(config.class_weights, len(config.labels))
        if config.class_weights != BALANCED:
            return config
        labels = np.array([label_of(record, config) for record in records])
        if config.multi_label:
            weights = balanced_set_weights(labels)
        else:
            weights = balanced_weights(labels, len(config.labels))
        return dataclasses.replace(config, class_weights=weights)

    @override
    def check_record(self, config: Any, record: Record) -> None:
        """Raise DataError where a text or the label is missing or not valid."""
        check_texts(record, self.text_columns(config))
        if config.figures_by:
            record.joined(config.figures_by, "objective.figures_by")
        check_label(record, config.label, config.labels, config.label_separator)

    @override
    def text_columns(self, config: Classification) -> Columns:
        """Return the one column."""
        return ((config.text, "objective.text"),)

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[Item] | list[JoinedItems]:
        """Make an item of each record: its texts, and its class or the 0 and 1 of each class.

        Returns:
            The items, where the config packs as JoinedItems of one.
        """
        texts = encode_columns(records, self.text_columns(spec.config), tokenizer)
        columns = (spec.config.language, spec.config.second_language)
        languages = languages_of(records, columns, spec)
        items = []
        for number, (record, pair) in enumerate(zip(records, texts, strict=True)):
            label = label_of(record, spec.config) if labelled else None
            items.append(Item(pair, label, number, languages[number]))
        return [JoinedItems((item,), item.record) for item in items] if spec.config.packing else items

    @override
    def empty_item(self, spec: TaskSpec) -> Item | JoinedItems:
        """Return an item of empty texts, or of no examples where the config packs."""
        return JoinedItems(()) if spec.config.packing else self._empty_texts(spec)

    def _empty_texts(self, spec: TaskSpec) -> Item:
        num_texts = len(self.text_columns(spec.config))
        return Item((np.zeros(0, np.int32),) * num_texts, None)

    @override
    def example(
        self, rng: np.random.Generator, item: Item | JoinedItems, spec: TaskSpec
    ) -> dict[str, np.ndarray]:
        """Make the row of the item's texts.

        item: One example, or several.

        Returns:
            The row's arrays; label [] int32, or [C] float32 of several labels; weights []. Of JoinedItems
            both have a dim more.
        """
        del rng
        if isinstance(item, JoinedItems):
            labels_of = partial(label_arrays, config=spec.config)
            return joined_row(item, spec, labels_of, self._empty_texts(spec))
        return input_row(item.texts, spec, item.languages) | label_arrays(item, spec.config)

    @override
    def predictions(
        self, outputs: Mapping[str, np.ndarray], items: Sequence[Item], spec: TaskSpec
    ) -> list[Prediction]:
        """Make predictions of logits.

        outputs: "logits" [items, C], or [items, P, C] where the config packs.

        Returns:
            {"label", "probability"}, or {"labels", "probabilities" of all classes}.
        """
        del items
        logits = outputs["logits"].astype(np.float64)
        names = spec.config.labels
        if spec.config.packing:
            logits = logits[:, 0]  # rows of evaluation hold one example each
        if spec.config.multi_label:
            return [
                {
                    "labels": [name for name, p in zip(names, row, strict=True) if p > 0.5],
                    "probabilities": {name: round(float(p), 4) for name, p in zip(names, row, strict=True)},
                }
                for row in 1 / (1 + np.exp(-logits))
            ]
        probabilities = softmax(logits)
        best = probabilities.argmax(axis=1)
        return [
            {"label": names[index], "probability": round(float(row[index]), 4)}
            for index, row in zip(best, probabilities, strict=True)
        ]

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute accuracy, error rate, and precision, recall and F1, of few classes also each one's F1.

        Returns:
            The metrics; of single labels also Matthews' correlation and the expected calibration error.
        """
        config = spec.config
        names = config.labels
        count = len(names)
        predicted, true = labellings(predictions, records, config)
        accuracy = metrics.accuracy(predicted, true)
        macro = metrics.macro(predicted, true, count)
        figures = {
            "accuracy": accuracy,
            "error_rate": 1 - accuracy,
            "f1_macro": macro.f1,
            "precision_macro": macro.precision,
            "recall_macro": macro.recall,
        }
        if config.multi_label:
            figures["f1_micro"] = metrics.micro(predicted, true, count).f1  # of single labels the accuracy
        else:
            figures["matthews"] = metrics.matthews(predicted, true)
            if all("probability" in prediction for prediction in predictions):
                probabilities = [prediction["probability"] for prediction in predictions]
                figures["calibration_error"] = expected_calibration_error(probabilities, predicted == true)
        if count <= _LISTED:
            by_class: Any = metrics.per_class(predicted, true, count).f1
            figures |= {f"f1/{name}": float(f1) for name, f1 in zip(names, by_class, strict=True)}
        if config.figures_by and not config.multi_label:
            figures |= _accuracy_by(predicted == true, records, config.figures_by)
        if config.out_of_scope_label:
            figures |= _scope_figures(predicted, true, names.index(config.out_of_scope_label))
        if not config.multi_label:
            baseline = float(np.bincount(true).max() / len(true))
            return Scores(figures, "accuracy", mean_of(predicted == true), baseline)
        return Scores(
            figures,
            "f1_micro",
            lambda chosen: float(metrics.micro(predicted[chosen], true[chosen], count).f1),
        )

    @override
    def draw(
        self,
        predictions: Sequence[Prediction],
        records: Sequence[Record],
        spec: TaskSpec,
        folder: pathlib.Path,
        split: str,
    ) -> None:
        """Draw the confusion matrix and the reliability diagram; nothing for sets of labels."""
        if spec.config.multi_label:
            return
        predicted, true = labellings(predictions, records, spec.config)
        names = spec.config.labels
        draw_confusion(
            metrics.confusion(predicted, true, len(names)), names, folder / f"confusion_{split}.png"
        )
        if predictions and all("probability" in prediction for prediction in predictions):
            probabilities = [prediction["probability"] for prediction in predictions]
            bins = reliability(probabilities, predicted == true)
            draw_reliability(bins, folder / f"reliability_{split}.png")


def _accuracy_by(right: np.ndarray, records: Sequence[Record], column: str) -> dict[str, float]:
    """Return the accuracy of the records of each value of a column, values sorted."""
    values = np.array([record.joined(column, "objective.figures_by") for record in records])
    return {f"accuracy/{name}": float(right[values == name].mean()) for name in np.unique(values)}


def _scope_figures(predicted: np.ndarray, true: np.ndarray, outside: int) -> dict[str, float]:
    """Return the accuracy in scope, and the recall of what is out of scope (Larson et al. 2019)."""
    in_scope = true != outside
    right = predicted == true
    shares = {"in_scope_accuracy": right[in_scope], "out_of_scope_recall": right[~in_scope]}
    return {name: float(share.mean()) for name, share in shares.items() if len(share)}


TASK = ClassificationTask()
