"""A tag for every token: names of people and places, parts of speech.

Tokens are joined to a text, which is tokenised as a whole; a token's tag is learned and read at the first id
that shares a character with it (Devlin et al. 2019, 5.3). Long records become several rows. Tags of entities
(B-PER, I-PER, O) are scored by entity, as conlleval and seqeval do.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics.entities import entity_counts, entity_scores, micro_f1
from tlx.metrics.libraries import library
from tlx.tasks.shared.base import Batch, Prediction, Scores, Task, TaskModule, TaskSpec
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model
from tlx.tasks.shared.inputs import KINDS, input_row
from tlx.tasks.shared.spans import begin_of, room_for, windows
from tlx.text.spans import encode_with_spans
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenClassification:
    """tokens, tags: columns with lists of the same length. joiner: what stands between tokens in the text
    ("" where they are characters). labels: all tags; (): those of the training records, sorted."""

    name: str = "token_classification"
    tokens: str = "tokens"
    tags: str = "tags"
    joiner: str = " "
    labels: tuple[str, ...] = ()

    def validate(self) -> None:
        """Raises ConfigError for tags that are there twice."""
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"objective.labels = {self.labels} has a tag twice")


class TokenItem(NamedTuple):
    """A row's part of a record: its ids, and the tag of each (-1: none is learned there). `tokens` are the
    record's tokens that it speaks for, and `places` the ids that do, counted from the piece's first."""

    texts: tuple[np.ndarray, ...]
    label: np.ndarray
    record: int
    tokens: np.ndarray
    places: np.ndarray


def complete(config: TokenClassification, records: Sequence[Record]) -> TokenClassification:
    """The config with all tags; ConfigError where seqeval is missing, before anything is trained."""
    library("seqeval.metrics", "seqeval", "entity F1")
    if config.labels:
        return config
    tags = {tag for record in records for tag in _list(record, config.tags, "objective.tags")}
    return dataclasses.replace(config, labels=tuple(sorted(tags)))


def texts(config: TokenClassification) -> tuple[tuple[str, str], ...]:
    """The tokens' column."""
    return ((config.tokens, "objective.tokens"),)


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[TokenItem]:
    """One piece or more of each record."""
    pieces = []
    for number, record in enumerate(records):
        config = spec.config
        tokens = _list(record, config.tokens, "objective.tokens")
        tags = _numbers(record, tokens, config) if labelled else np.full(len(tokens), -1)
        ids, spans = encode_with_spans(tokenizer, config.joiner.join(tokens))
        firsts = _first_ids(tokens, spans, config.joiner)
        room = room_for(1, spec)
        for start, stop in windows(len(ids), room, room):
            here = np.flatnonzero((firsts >= start) & (firsts < stop))
            label = np.full(stop - start, -1, np.int32)
            label[firsts[here] - start] = tags[here]
            pieces.append(TokenItem((ids[start:stop],), label, number, here, firsts[here] - start))
    return pieces


def blank(spec: TaskSpec) -> TokenItem:
    """A piece of nothing."""
    none = np.zeros(0, np.int32)
    return TokenItem((none,), none, 0, none, none)


def example(rng: np.random.Generator, item: TokenItem, spec: TaskSpec) -> dict[str, np.ndarray]:
    """The row of the piece; label and label_weights [length]: 0 where no tag is learned; weights []."""
    del rng
    begin = begin_of(item.texts, 0, spec)
    label = np.full(spec.length, -1, np.int32)
    label[begin : begin + len(item.label)] = item.label
    arrays = input_row(item.texts, spec)
    return arrays | {
        "label": np.maximum(label, 0),
        "label_weights": (label >= 0).astype(np.float32),
        "weights": np.ones((), np.float32),
    }


class TokenModule(TaskModule):
    """A model of any shape and a linear map of every hidden state to the tags."""

    def setup(self):
        self.lm = language_model(self.model)
        self.heads = TaskHeads(self.model, self.config.name, max(len(self.config.labels), 1), of_places=True)

    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """logits [B, T, C]."""
        return {"logits": self.heads(hidden_states(self.lm, batch, keys), keys)}

    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Terms "loss" and "accuracy", means over tokens."""
        logits_BTC, label = outputs["logits"], batch["label"]
        weights = batch["label_weights"] * batch["weights"][:, None]
        log_p = jax.nn.log_softmax(logits_BTC)
        chosen = jnp.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]
        smooth = self.loss.label_smoothing
        losses = -(1 - smooth) * chosen - smooth * jnp.mean(log_p, axis=-1)
        hits, count = jnp.argmax(log_p, axis=-1) == label, jnp.sum(weights)
        return {
            "loss": Term(jnp.sum(losses * weights), count, 1.0),
            "accuracy": Term(jnp.sum(hits * weights), count),
        }


def answers(
    outputs: Mapping[str, np.ndarray], items: Sequence[TokenItem], spec: TaskSpec
) -> list[Prediction]:
    """{"tags": one for each token}; what no id stands for is O, or else the first tag."""
    names = spec.config.labels
    none = "O" if "O" in names else names[0]
    found: dict[int, dict[int, str]] = {}
    for row, item in zip(outputs["logits"], items, strict=True):
        best = row[begin_of(item.texts, 0, spec) + item.places].argmax(axis=-1)
        tags = found.setdefault(item.record, {})
        tags.update((int(token), names[tag]) for token, tag in zip(item.tokens, best, strict=True))
    return [
        {"tags": [tags.get(token, none) for token in range(max(tags, default=-1) + 1)]}
        for _, tags in sorted(found.items())
    ]


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """Precision, recall and F1 of entities, F1 by type, and the share of tokens that are right."""
    true = [_list(record, spec.config.tags, "objective.tags") for record in records]
    none = "O" if "O" in spec.config.labels else spec.config.labels[0]
    predicted = [
        answer["tags"] + [none] * (len(tags) - len(answer["tags"]))
        for answer, tags in zip(answers, true, strict=True)
    ]
    figures = entity_scores(predicted, true)
    rights = [np.equal(said, there) for said, there in zip(predicted, true, strict=True) if there]
    figures["token_accuracy"] = float(np.mean(np.concatenate(rights)))
    counts = entity_counts(predicted, true)
    return Scores(figures, "f1", lambda chosen: micro_f1(counts[chosen]))


def _first_ids(tokens: Sequence[str], spans: np.ndarray, joiner: str) -> np.ndarray:
    """For each token the first id that shares a character with it; -1 where none does."""
    sizes = np.array([len(token) for token in tokens], np.int64)
    ends = np.cumsum(sizes + len(joiner)) - len(joiner)
    first = np.full(len(tokens), -1, np.int64)
    if not len(spans):
        return first
    # Spans ascend: the first that ends behind a token's beginning is the one, if it begins before its end.
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


def _numbers(record: Record, tokens: Sequence[str], config: TokenClassification) -> np.ndarray:
    tags = _list(record, config.tags, "objective.tags")
    if len(tags) != len(tokens):
        raise DataError(f"{record.where}: {len(tokens)} tokens and {len(tags)} tags")
    for tag in tags:
        if tag not in config.labels:
            raise DataError(f"{record.where}: " + one_of(config.tags, tag, config.labels))
    return np.array([config.labels.index(tag) for tag in tags], np.int32)


TASK = Task(
    TokenClassification,
    complete,
    texts,
    prepare,
    blank,
    example,
    TokenModule,
    answers,
    score,
    KINDS,
    cuts=True,
)
