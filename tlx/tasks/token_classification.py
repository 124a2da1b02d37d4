"""A tag for every token: names of people and places, parts of speech.

Tokens are joined to a text, which is tokenized as a whole; a token's tag is learned and read at the first id
that shares a character with it (Devlin et al. 2019, 5.3). Long records become several rows. Tags of entities
(B-PER, I-PER, O) are scored by entity, as conlleval and seqeval do.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics.entities import entity_counts, entity_scores, micro_f1
from tlx.metrics.libraries import library
from tlx.models.heads import TaskHeadConfig
from tlx.tasks.shared.base import Batch, Columns, Prediction, Scores, Task, TaskModule, TaskSpec
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model
from tlx.tasks.shared.inputs import KINDS, input_row
from tlx.tasks.shared.spans import max_text_tokens, text_start, windows
from tlx.text.spans import encode_with_spans
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenClassification:
    """Columns of tokens and tags, and how tokens become a text."""

    name: str = "token_classification"
    """Name in the table of tasks."""
    tokens: str = "tokens"
    """Column with a list of tokens."""
    tags: str = "tags"
    """Column with a list of tags, as many as tokens."""
    joiner: str = " "
    """Text between two tokens; "" where tokens are characters."""
    labels: tuple[str, ...] = ()
    """All tags, in order; () is those of the training records, sorted."""
    head: TaskHeadConfig = dataclasses.field(default_factory=TaskHeadConfig)
    """Layers of the head."""
    frame: Literal["tlx", "tokenizer"] = "tlx"
    """Special ids of a row: "tlx" (inputs.py), or "tokenizer", as an imported tokenizer's own template has them,
    which is how models imported with their head were trained."""

    def validate(self) -> None:
        """Raise ConfigError for tags that are there twice."""
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"objective.labels = {self.labels} has a tag twice")


class TokenItem(NamedTuple):
    """A row's part of a record."""

    texts: tuple[np.ndarray, ...]
    """int32 ids of the part, as the one text of a row."""
    label: np.ndarray
    """int32 [n], the tag of each id; -1 where none is learned."""
    record: int
    """Index of the record."""
    tokens: np.ndarray
    """int [m], the record's tokens whose tags are read in this part."""
    positions: np.ndarray
    """int [m], the id of the part at which each is read."""


class TokenModule(TaskModule):
    """A model of any kind and a linear map of every hidden state to the tags."""

    def setup(self) -> None:
        """Build the language model and the head."""
        self.lm = language_model(self.model)
        self.heads = TaskHeads(
            self.model,
            self.config.name,
            max(len(self.config.labels), 1),
            per_token=True,
            shape=self.config.head,
        )

    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return logits [B, T, C]."""
        return {"logits": self.heads(hidden_states(self.lm, batch, keys), keys)}

    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the terms "loss" and "accuracy", means over tokens."""
        label = batch["label"]
        weights = batch["label_weights"] * batch["weights"][:, None]
        log_p = jax.nn.log_softmax(outputs["logits"])
        chosen = jnp.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]
        smoothing = self.loss.label_smoothing
        losses = -(1 - smoothing) * chosen - smoothing * jnp.mean(log_p, axis=-1)
        hits = jnp.argmax(log_p, axis=-1) == label
        count = jnp.sum(weights)
        return {
            "loss": Term(jnp.sum(losses * weights), count, 1.0),
            "accuracy": Term(jnp.sum(hits * weights), count),
        }


class TokenClassificationTask(Task):
    """A tag for each token."""

    config_class = TokenClassification
    module = TokenModule
    kinds = KINDS
    one_to_many = True

    def infer_labels(self, config: TokenClassification, records: Sequence[Record]) -> TokenClassification:
        """Return the config with all tags; raises ConfigError where seqeval is missing, before training."""
        library("seqeval.metrics", "seqeval", "entity F1")
        if config.labels:
            return config
        tags = {tag for record in records for tag in _list(record, config.tags, "objective.tags")}
        return dataclasses.replace(config, labels=tuple(sorted(tags)))

    def text_columns(self, config: TokenClassification) -> Columns:
        """Return the tokens' column."""
        return ((config.tokens, "objective.tokens"),)

    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[TokenItem]:
        """Cut each record to parts that fit a row.

        Args:
            records: The records.
            tokenizer: The run's tokenizer.
            spec: What examples depend on.
            labelled: Whether tags are read.

        Returns:
            One part or more of each record.
        """
        config = spec.config
        room = max_text_tokens(1, spec)
        items = []
        for number, record in enumerate(records):
            tokens = _list(record, config.tokens, "objective.tokens")
            tags = _tag_indices(record, tokens, config) if labelled else np.full(len(tokens), -1)
            ids, spans = encode_with_spans(tokenizer, config.joiner.join(tokens))
            firsts = _first_ids(tokens, spans, config.joiner)
            for start, stop in windows(len(ids), room, room):
                inside = np.flatnonzero((firsts >= start) & (firsts < stop))
                positions = firsts[inside] - start
                label = np.full(stop - start, -1, np.int32)
                label[positions] = tags[inside]
                items.append(TokenItem((ids[start:stop],), label, number, inside, positions))
        return items

    def empty_item(self, spec: TaskSpec) -> TokenItem:
        """Return a part of no tokens."""
        none = np.zeros(0, np.int32)
        return TokenItem((none,), none, 0, none, none)

    def example(self, rng: np.random.Generator, item: TokenItem, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make the row of a part.

        Args:
            rng: Not used; nothing is random.
            item: The part.
            spec: What examples depend on.

        Returns:
            The row's arrays; label and label_weights [length], 0 where no tag is learned; weights [].
        """
        del rng
        start = text_start(item.texts, 0, spec)
        label = np.full(spec.length, -1, np.int32)
        label[start : start + len(item.label)] = item.label
        return input_row(item.texts, spec) | {
            "label": np.maximum(label, 0),
            "label_weights": (label >= 0).astype(np.float32),
            "weights": np.ones((), np.float32),
        }

    def predictions(
        self, outputs: Mapping[str, np.ndarray], items: Sequence[TokenItem], spec: TaskSpec
    ) -> list[Prediction]:
        """Read the tags of each record.

        Args:
            outputs: "logits" [items, T, C].
            items: The parts.
            spec: What examples depend on.

        Returns:
            {"tags": one for each token}; O, or else the first tag, for tokens that no id stands for.
        """
        names = spec.config.labels
        default = _default_tag(names)
        tags_by_record: dict[int, dict[int, str]] = {}
        for row, item in zip(outputs["logits"], items, strict=True):
            best = row[text_start(item.texts, 0, spec) + item.positions].argmax(axis=-1)
            tags = tags_by_record.setdefault(item.record, {})
            tags.update((int(token), names[tag]) for token, tag in zip(item.tokens, best, strict=True))
        return [
            {"tags": [tags.get(token, default) for token in range(max(tags, default=-1) + 1)]}
            for _, tags in sorted(tags_by_record.items())
        ]

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute precision, recall and F1 of entities, F1 by type, and the accuracy of tokens.

        Args:
            predictions: One for each record.
            records: The records, with tags.
            spec: What examples depend on.

        Returns:
            The metrics.
        """
        true = [_list(record, spec.config.tags, "objective.tags") for record in records]
        default = _default_tag(spec.config.labels)
        predicted = [
            prediction["tags"] + [default] * (len(tags) - len(prediction["tags"]))
            for prediction, tags in zip(predictions, true, strict=True)
        ]
        figures = entity_scores(predicted, true)
        rights = [np.equal(guess, tags) for guess, tags in zip(predicted, true, strict=True) if tags]
        figures["token_accuracy"] = float(np.mean(np.concatenate(rights)))
        counts = entity_counts(predicted, true)
        return Scores(figures, "f1", lambda chosen: micro_f1(counts[chosen]))


def _default_tag(names: Sequence[str]) -> str:
    return "O" if "O" in names else names[0]


def _first_ids(tokens: Sequence[str], spans: np.ndarray, joiner: str) -> np.ndarray:
    """Return for each token the first id that shares a character with it; -1 where none does."""
    sizes = np.array([len(token) for token in tokens], np.int64)
    ends = np.cumsum(sizes + len(joiner)) - len(joiner)
    first = np.full(len(tokens), -1, np.int64)
    if not len(spans):
        return first
    # Spans ascend: the first that ends after a token's beginning is the one, if it begins before its end.
    at = np.searchsorted(spans[:, 1], ends - sizes, side="right")
    inside = np.minimum(at, len(spans) - 1)
    good = (at < len(spans)) & (spans[inside, 0] < ends) & (sizes > 0)
    first[good] = at[good]
    return first


def _list(record: Record, column: str, field: str) -> list[str]:
    value = record.get(column, field)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{record.where}: {column!r} must be a list of texts for {field}")
    return value


def _tag_indices(record: Record, tokens: Sequence[str], config: TokenClassification) -> np.ndarray:
    tags = _list(record, config.tags, "objective.tags")
    if len(tags) != len(tokens):
        raise DataError(f"{record.where}: {len(tokens)} tokens and {len(tags)} tags")
    for tag in tags:
        if tag not in config.labels:
            raise DataError(f"{record.where}: " + one_of(config.tags, tag, config.labels))
    return np.array([config.labels.index(tag) for tag in tags], np.int32)


TASK = TokenClassificationTask()
