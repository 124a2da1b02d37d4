"""A tag for every token: names of people and places, parts of speech.

Tokens are joined to a text, which is tokenized as a whole; a token's tag is learned and read at the first id
that shares a character with it (Devlin et al. 2019, 5.3). Tokens with nothing between them, such as characters,
would share ids, of which only one tag can be learned: they are tokenized one by one. Long records become several
rows. Tags of entities (B-PER, I-PER, O) are scored by entity, as conlleval and seqeval do.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics.entities import entity_counts, entity_scores, micro_f1
from tlx.metrics.libraries import library
from tlx.models.heads import TaskHeadConfig
from tlx.tasks.shared.base import (
    Batch,
    Columns,
    Prediction,
    Scores,
    Task,
    TaskModule,
    TaskSpec,
    check_unicode,
)
from tlx.tasks.shared.class_weights import (
    BALANCED,
    balanced_weights,
    check_weights,
    numeric_weights,
    weighted_cross_entropy,
)
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model
from tlx.tasks.shared.inputs import ENCODING_KINDS, input_row
from tlx.tasks.shared.soft_losses import class_divergences, weighted
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
    """All tags, in order; () is those of the training records, sorted. Needed where tags are numbers, which are
    indices of these names, as of Hugging Face's data sets."""
    encoding: Literal["auto", "joined", "separate"] = "auto"
    """Tokenization of tokens: "joined" to one text, "separate" one by one, or "auto": one by one where `joiner` is
    empty, else joined."""
    class_weights: tuple[float | str, ...] = ()
    """Weight of each tag in the loss, in the order of `labels`: numbers above 0, or "balanced", tokens / (tags x
    tokens of the tag), which becomes numbers when the run starts; () is 1 for all."""
    head: TaskHeadConfig = dataclasses.field(default_factory=TaskHeadConfig)
    """Layers of the head."""
    frame: Literal["model", "tlx", "tokenizer"] = "model"
    """Special ids of a row: "model", those that the base model was trained with; "tlx" (inputs.py), those of fresh
    parameters; or "tokenizer", as an imported tokenizer's own template has them, which is how models imported with
    their head were trained."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"objective.labels = {self.labels} has a tag twice")
        check_weights(self.class_weights, len(self.labels))

    @property
    def one_by_one(self) -> bool:
        """Whether tokens are tokenized one by one."""
        return self.encoding == "separate" or (self.encoding == "auto" and not self.joiner)


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

    can_distill = True

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

    @override
    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return logits [B, T, C]."""
        return {"logits": self.heads(hidden_states(self.lm, batch, keys, self.heads), keys)}

    @override
    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the terms "loss" and "accuracy", means over tokens."""
        label = batch["label"]
        weights = batch["label_weights"] * batch["weights"][:, None]
        logits = outputs["logits"]
        class_weights = numeric_weights(self.config.class_weights, logits.shape[-1])
        hits = jnp.argmax(jax.nn.log_softmax(logits), axis=-1) == label
        return {
            "loss": weighted_cross_entropy(logits, label, weights, self.loss.label_smoothing, class_weights),
            "accuracy": Term(jnp.sum(hits * weights), jnp.sum(weights)),
        }

    @override
    def soft_loss(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Term:
        """Return the divergence of the tags of the tokens that have one."""
        values = class_divergences(student["logits"], teacher["logits"], temperature)
        return weighted(values, batch["label_weights"] * batch["weights"][:, None], temperature)


class TokenClassificationTask(Task):
    """A tag for each token."""

    config_class = TokenClassification
    module = TokenModule
    kinds = ENCODING_KINDS
    one_to_many = True

    @override
    def infer_labels(self, config: TokenClassification, records: Sequence[Record]) -> TokenClassification:
        """Return the config with all tags; raises ConfigError where seqeval is missing, before training."""
        library("seqeval.metrics", "seqeval", "entity F1")
        if not config.labels:
            tags = {tag for record in records for tag in _tag_names(record, config)}
            config = dataclasses.replace(config, labels=tuple(sorted(tags)))
        check_weights(config.class_weights, len(config.labels))
        if config.class_weights != BALANCED:
            return config
        indices = [_indices(record, _tag_names(record, config), config) for record in records]
        weights = balanced_weights(np.concatenate(indices), len(config.labels))
        return dataclasses.replace(config, class_weights=weights)

    @override
    def check_record(self, config: TokenClassification, record: Record) -> None:
        """Raise DataError where tokens or tags are missing or not valid, or their numbers differ."""
        tokens = _list(record, config.tokens, "objective.tokens")
        check_unicode(record, tokens)
        if config.labels:
            _tag_indices(record, tokens, config)
        else:
            _tag_names(record, config)

    @override
    def text_columns(self, config: TokenClassification) -> Columns:
        """Return the tokens' column."""
        return ((config.tokens, "objective.tokens"),)

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[TokenItem]:
        """Cut each record to parts that fit a row.

        Returns:
            One part or more of each record.
        """
        config = spec.config
        room = max_text_tokens(1, spec)
        items = []
        for number, record in enumerate(records):
            tokens = _list(record, config.tokens, "objective.tokens")
            tags = _tag_indices(record, tokens, config) if labelled else np.full(len(tokens), -1)
            check_unicode(record, tokens)
            ids, firsts = _encode(tokenizer, tokens, config)
            for start, stop in windows(len(ids), room, room):
                inside = np.flatnonzero((firsts >= start) & (firsts < stop))
                positions = firsts[inside] - start
                label = np.full(stop - start, -1, np.int32)
                label[positions] = tags[inside]
                items.append(TokenItem((ids[start:stop],), label, number, inside, positions))
        return items

    @override
    def empty_item(self, spec: TaskSpec) -> TokenItem:
        """Return a part of no tokens."""
        none = np.zeros(0, np.int32)
        return TokenItem((none,), none, 0, none, none)

    @override
    def example(self, rng: np.random.Generator, item: TokenItem, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make the row of a part.

        item: The part.

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

    @override
    def predictions(
        self, outputs: Mapping[str, np.ndarray], items: Sequence[TokenItem], spec: TaskSpec
    ) -> list[Prediction]:
        """Read the tags of each record.

        outputs: "logits" [items, T, C].
        items: The parts.

        Returns:
            {"tags": one for each token}; O, or else the first tag, for tokens that no id stands for.
        """
        best = [
            row[text_start(item.texts, 0, spec) + item.positions].argmax(axis=-1)
            for row, item in zip(outputs["logits"], items, strict=True)
        ]
        return _tags_of_records(best, items, spec.config.labels)

    @override
    def ceiling(self, items: Sequence[TokenItem], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Return the scores where every learned tag is predicted.

        Args:
            items: The parts, with labels.
            records: The records.
            spec: What examples depend on.

        Returns:
            The scores; below 1 where several tokens share an id, or a token has none.
        """
        learned = [item.label[item.positions] for item in items]
        return self.score(_tags_of_records(learned, items, spec.config.labels), records, spec)

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute precision, recall and F1 of entities, F1 by type, and the accuracy of tokens."""
        true = [_tag_names(record, spec.config) for record in records]
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


def _tags_of_records(
    tags: Sequence[np.ndarray], items: Sequence[TokenItem], names: Sequence[str]
) -> list[Prediction]:
    """Predictions of the tags that are read at the positions of each part."""
    default = _default_tag(names)
    tags_by_record: dict[int, dict[int, str]] = {}
    for indices, item in zip(tags, items, strict=True):
        of_record = tags_by_record.setdefault(item.record, {})
        for token, tag in zip(item.tokens, indices, strict=True):
            of_record[int(token)] = names[int(tag)]
    return [
        {"tags": [of_record.get(token, default) for token in range(max(of_record, default=-1) + 1)]}
        for _, of_record in sorted(tags_by_record.items())
    ]


def _encode(
    tokenizer: Tokenizer, tokens: Sequence[str], config: TokenClassification
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a record's tokens, and for each token the first id that stands for it, or -1."""
    if not config.one_by_one:
        ids, spans = encode_with_spans(tokenizer, config.joiner.join(tokens))
        return ids, _first_ids(tokens, spans, config.joiner)
    if not tokens:
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    texts = [tokens[0], *(config.joiner + token for token in tokens[1:])]
    encoded = [
        _without_added_space(tokenizer, ids, text)
        for ids, text in zip(tokenizer.encode_batch(texts), texts, strict=True)
    ]
    sizes = np.array([len(ids) for ids in encoded], np.int64)
    firsts = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1)
    return np.concatenate(encoded).astype(np.int32), firsts


def _without_added_space(tokenizer: Tokenizer, ids: np.ndarray, text: str) -> np.ndarray:
    """Ids of a token without the space that some tokenizers put before every text, as an id of its own."""
    added = len(ids) > 1 and not text[:1].isspace() and tokenizer.piece_bytes(int(ids[0])) == b" "
    return ids[1:] if added else ids


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
    tags = _tag_names(record, config)
    if len(tags) != len(tokens):
        raise DataError(f"{record.where}: {len(tokens)} tokens and {len(tags)} tags")
    return _indices(record, tags, config)


def _indices(record: Record, tags: Sequence[str], config: TokenClassification) -> np.ndarray:
    """Indices of tags in config.labels, int32 [n]. Raises DataError for one that is not there."""
    for tag in tags:
        if tag not in config.labels:
            raise DataError(f"{record.where}: " + one_of(config.tags, tag, config.labels))
    return np.array([config.labels.index(tag) for tag in tags], np.int32)


def _tag_names(record: Record, config: TokenClassification) -> list[str]:
    """Names of a record's tags; numbers are indices of config.labels."""
    value = record.get(config.tags, "objective.tags")
    numbers = isinstance(value, list) and value and all(type(item) is int for item in value)
    if not numbers:
        return _list(record, config.tags, "objective.tags")
    names = config.labels
    if not names:
        raise ConfigError(
            f"{record.where}: {config.tags!r} has numbers; give their names in order, such as "
            "objective.labels = ('O', 'B-PER', 'I-PER')"
        )
    for item in value:
        if not 0 <= item < len(names):
            raise DataError(f"{record.where}: {config.tags} = {item} is no index of the {len(names)} labels")
    return [names[item] for item in value]


TASK = TokenClassificationTask()
