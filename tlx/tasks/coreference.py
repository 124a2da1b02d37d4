"""Coreference: which spans of a document mean the same entity (Lee et al. 2017; Joshi et al. 2019, 2020: SpanBERT).

A document is read in windows of whole sentences that do not overlap, each encoded by itself; spans of all windows of
an example are ranked together (tlx/models/span_ranking.py). The loss is that of the marginal likelihood of all right
antecedents. A document of more than `windows` windows becomes several examples, between which there are no
antecedents; the papers' code learns from stretches of that many windows, and evaluates whole documents: `windows` as
large as the longest evaluates so.

A mention is learned where it is the span of some ids, `ranking.max_span_width` at most, inside one window.

With a column of `mentions` these are ranked alone, in training and after it: the task on given (gold) mentions. GAP
gives the pronoun and the two names (Webster et al. 2018, gold-two-mention): of a text's mentions it labels three, and
nothing is learned of one that is pruned.

Shapes: Q positions of all windows of a document, U spans that are kept, A antecedents of each, W lengths of a span.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError, DataError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics import coreference, gap
from tlx.models.config import ModelConfig
from tlx.models.span_ranking import Document, SpanRanking, SpanRankingConfig, with_none
from tlx.tasks.shared.base import Batch, Columns, Prediction, Scores, Task, TaskModule, TaskSpec, check_texts
from tlx.tasks.shared.heads import hidden_states, language_model
from tlx.tasks.shared.inputs import KINDS, input_row
from tlx.tasks.shared.spans import max_text_tokens, text_start
from tlx.text.spans import encode_with_spans, overlapping
from tlx.text.tokenizer import Tokenizer

Span = tuple[int, int]
"""First character of a text's piece, and the one after its last."""


@dataclasses.dataclass(frozen=True)
class Coreference:
    """Columns as the readers of CoNLL-2012 and of GAP name them, and the sizes of the head."""

    name: str = "coreference"
    """Name in the table of tasks."""
    text: str = "text"
    """Column with the text of a document."""
    clusters: str = "clusters"
    """Column with a list of entities, each a list of mentions [start, stop] in characters of the text."""
    sentences: str = "sentences"
    """Column with a list of sentences [start, stop], which no mention crosses; where a record has none, they end at
    `.`, `!`, `?` or the end of a line."""
    speakers: str = "speakers"
    """Column with a list of stretches [start, stop, name of who speaks]; "" takes no notice of speakers. A record
    without the column has one speaker."""
    mentions: str = ""
    """Column with a list of mentions [start, stop], which are ranked alone, with and without labels; "" scores all
    spans and prunes them. The readers of GAP and CoNLL-2012 have "mentions", those that are labelled."""
    genre: str = "genre"
    """Column with the genre of a document, read where `genres` are named."""
    genres: tuple[str, ...] = ()
    """Genres that have a vector; others count as the first. () has no vectors of genres."""
    windows: int = 3
    """Windows of an example, at least 1."""
    ranking: SpanRankingConfig = dataclasses.field(default_factory=SpanRankingConfig)
    """Sizes of the head."""
    frame: Literal["model", "tlx", "tokenizer"] = "model"
    """Special ids of a window: "model", those that the base model was trained with; "tlx" (inputs.py), those of fresh
    parameters; or "tokenizer", as an imported tokenizer's own template has them."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        if self.windows < 1:
            raise ConfigError(f"objective.windows = {self.windows} must be at least 1")
        if len(set(self.genres)) != len(self.genres):
            raise ConfigError(f"objective.genres = {self.genres} has a genre twice")
        self.ranking.check()


class DocumentPart(NamedTuple):
    """Some windows of a document, one after the other."""

    texts: tuple[np.ndarray, ...]
    """int32 ids of each window."""
    spans: tuple[np.ndarray, ...]
    """int [n, 2] of each window, the characters of each id."""
    sentences: tuple[np.ndarray, ...]
    """int [n] of each window, number of the sentence of each id from 1."""
    speakers: tuple[np.ndarray, ...]
    """int [n] of each window, number of the speaker of each id."""
    genre: int
    """Number of the genre."""
    label: tuple[tuple[int, int, int, int], ...] | None
    """(window, first id, number of ids less 1, entity from 1) of each mention that is learned; None: not known."""
    record: int
    """Index of the record."""
    text: str
    """The document."""
    mentions: tuple[tuple[int, int, int], ...] = ()
    """(window, first id, number of ids less 1) of each mention that is given, in the order of the text."""


class CoreferenceHeads(nn.Module):
    """The parameters "heads/coreference"."""

    cfg: ModelConfig
    """The model."""
    task: Coreference
    """The task's config."""

    def setup(self) -> None:
        """Build the head."""
        self.head = SpanRanking(
            self.cfg,
            self.task.ranking,
            len(self.task.genres),
            bool(self.task.speakers),
            name=self.task.name,
        )

    def __call__(self, hidden_BQD: jax.Array, document: Document, keys_B: jax.Array | None) -> Any:
        """Return the Ranking of documents."""
        return self.head(hidden_BQD, document, keys_B)


class CoreferenceModule(TaskModule):
    """A model that encodes windows, and the head that ranks spans of all of them."""

    def setup(self) -> None:
        """Build the language model and the head."""
        self.lm = language_model(self.model)
        self.heads = CoreferenceHeads(self.model, self.config)

    @override
    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return the spans that are kept.

        Returns:
            "starts", "widths", "kept" [B, U] and "antecedents" [B, U, A], as a Ranking has them; "scores"
            [B, U, 1 + A], the first of no antecedent.
        """
        hidden = hidden_states(self.lm, batch, keys)
        count, windows, length, width = hidden.shape
        flat = (count, windows * length)
        document = Document(
            sentences_BQ=batch["sentences"].reshape(flat),
            speakers_BQ=batch["speakers"].reshape(flat),
            windows_BQ=jnp.broadcast_to(jnp.repeat(jnp.arange(windows), length), flat),
            genre_B=batch["genre"],
            num_tokens_B=batch["num_tokens"],
            mention_starts_BU=batch.get("mention_starts"),
            mention_widths_BU=batch.get("mention_widths"),
        )
        ranking = self.heads(hidden.reshape(*flat, width), document, keys)
        return {
            "starts": ranking.starts_BU,
            "widths": ranking.widths_BU,
            "kept": ranking.kept_BU,
            "antecedents": ranking.antecedents_BUA,
            "scores": with_none(ranking.scores_BUA),
        }

    @override
    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the loss, a sum over the spans of a document, and the fraction of mentions that are kept."""
        entities = batch["label"]
        count = len(entities)
        index_BU = outputs["starts"] * entities.shape[-1] + outputs["widths"]
        entities_BU = jnp.take_along_axis(entities.reshape(count, -1), index_BU, axis=1)
        entities_BU = jnp.where(outputs["kept"], entities_BU, 0)
        entities_BUA = jax.vmap(lambda row, chosen: row[chosen])(entities_BU, outputs["antecedents"])
        scores = outputs["scores"]
        is_right = (entities_BUA == entities_BU[..., None]) & (entities_BU > 0)[..., None]
        is_right = is_right & jnp.isfinite(scores[..., 1:])
        # A span without a right antecedent among those that are left has none.
        is_right = jnp.concatenate([~jnp.any(is_right, axis=-1, keepdims=True), is_right], axis=-1)
        right_BU = jax.nn.logsumexp(jnp.where(is_right, scores, -jnp.inf), axis=-1)
        losses_BU = jnp.where(outputs["kept"], jax.nn.logsumexp(scores, axis=-1) - right_BU, 0.0)
        weights = batch["weights"]
        num_mentions_B = jnp.sum(entities.reshape(count, -1) > 0, axis=1)
        return {
            "loss": Term(jnp.sum(jnp.sum(losses_BU, axis=1) * weights), jnp.sum(weights), 1.0),
            "mention_recall": Term(
                jnp.sum(jnp.sum(entities_BU > 0, axis=1) * weights), jnp.sum(num_mentions_B * weights)
            ),
        }

    @override
    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """Return (terms, outputs) without dropout: "starts", "widths" and "antecedents" [B, U], -1 for none."""
        outputs = self.outputs(batch)
        best_BU = jnp.argmax(outputs["scores"], axis=-1) - 1
        chosen_BU = jnp.take_along_axis(outputs["antecedents"], jnp.maximum(best_BU, 0)[..., None], axis=2)
        chosen_BU = jnp.where((best_BU >= 0) & outputs["kept"], chosen_BU[..., 0], -1)
        answers = {"starts": outputs["starts"], "widths": outputs["widths"], "antecedents": chosen_BU}
        return self.terms(outputs, batch), answers


class CoreferenceTask(Task):
    """A document, the entities of which it speaks several times."""

    config_class = Coreference
    module = CoreferenceModule
    kinds = KINDS
    one_to_many = True

    @override
    def text_columns(self, config: Coreference) -> Columns:
        """Return the text's column."""
        return ((config.text, "objective.text"),)

    @override
    def check_record(self, config: Coreference, record: Record) -> None:
        """Raise DataError where the text is missing or not valid, or mentions are not spans of it."""
        check_texts(record, self.text_columns(config))
        clusters_of(record, config)
        sentences_of(record, config)
        _speakers_of(record, config)
        mentions_of(record, config)

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[DocumentPart]:
        """Cut each document to windows of whole sentences, and these to parts.

        Returns:
            One part or more of each document.
        """
        config = spec.config
        room = max_text_tokens(1, spec)
        items = []
        for number, record in enumerate(records):
            text = record.text(config.text, "objective.text")
            ids, spans = encode_with_spans(tokenizer, text)
            sentences = _numbers_of(spans, sentences_of(record, config))
            names, stretches = _speakers_of(record, config)
            speakers = np.array([0, *names])[_numbers_of(spans, stretches)]
            pieces = sentence_windows(sentences, room)
            clusters = clusters_of(record, config) if labelled else None
            given = [[mention] for mention in mentions_of(record, config)]
            for begin in range(0, len(pieces), config.windows):
                part = pieces[begin : begin + config.windows]
                items.append(
                    DocumentPart(
                        texts=tuple(ids[start:stop] for start, stop in part),
                        spans=tuple(spans[start:stop] for start, stop in part),
                        sentences=tuple(sentences[start:stop] for start, stop in part),
                        speakers=tuple(speakers[start:stop] for start, stop in part),
                        genre=_genre_of(record, config),
                        label=None
                        if clusters is None
                        else _mentions(clusters, spans, sentences, part, config),
                        record=number,
                        text=text,
                        mentions=tuple(
                            sorted(
                                (window, first, width)
                                for window, first, width, _ in _mentions(
                                    given, spans, sentences, part, config
                                )
                            )
                        ),
                    )
                )
                _check_number(len(items[-1].mentions), record, spec)
        return items

    @override
    def empty_item(self, spec: TaskSpec) -> DocumentPart:
        """Return a part of no windows."""
        return DocumentPart((), (), (), (), 0, None, 0, "")

    @override
    def example(self, rng: np.random.Generator, item: DocumentPart, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make the rows of a part's windows.

        item: The part.

        Returns:
            The rows' arrays [windows, length]; sentences and speakers of each position; label [windows, length,
            W], the entity of each span by its first position and its width less 1, 0 for none; genre and num_tokens
            [], weights [].
        """
        del rng
        config = spec.config
        shape = (config.windows, spec.length)
        sentences = np.zeros(shape, np.int32)
        speakers = np.zeros(shape, np.int32)
        label = np.zeros((*shape, config.ranking.max_span_width), np.int32)
        none = np.zeros(0, np.int32)
        texts = [*item.texts, *[none] * (config.windows - len(item.texts))]
        rows = [input_row((text,), spec) for text in texts]
        for window, text in enumerate(item.texts):
            start = text_start((text,), 0, spec)
            sentences[window, start : start + len(text)] = item.sentences[window]
            speakers[window, start : start + len(text)] = item.speakers[window]
        for window, first, width, entity in item.label or ():
            label[window, text_start((item.texts[window],), 0, spec) + first, width] = entity
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        if config.mentions:
            most = config.ranking.most_spans(config.windows * spec.length)
            places = np.full((2, most), -1, np.int32)
            for index, (window, first, width) in enumerate(item.mentions):
                start = text_start((item.texts[window],), 0, spec)
                places[:, index] = window * spec.length + start + first, width
            arrays |= {"mention_starts": places[0], "mention_widths": places[1]}
        side = "decoder_" if spec.kind == "encoder_decoder" else ""
        num_tokens = np.count_nonzero(arrays[f"{side}segments"][: len(item.texts)])
        return arrays | {
            "sentences": sentences,
            "speakers": speakers,
            "label": label,
            "genre": np.array(item.genre, np.int32),
            "num_tokens": np.array(num_tokens, np.int32),
            "weights": np.array(len(item.texts) > 0, np.float32),
        }

    @override
    def predictions(
        self, outputs: Mapping[str, np.ndarray], items: Sequence[DocumentPart], spec: TaskSpec
    ) -> list[Prediction]:
        """Join each span with its best antecedent, in all parts of each document.

        outputs: "starts", "widths" and "antecedents" [items, U].
        items: The parts.

        Returns:
            {"clusters": entities of two mentions or more, each a list of [start, stop] in characters, in the order of
            the text}.
        """
        clusters: dict[int, list[list[list[int]]]] = {}
        for number, item in enumerate(items):
            of_record = clusters.setdefault(item.record, [])
            entities: dict[int, list[list[int]]] = {}
            antecedents = outputs["antecedents"][number]
            for index in np.flatnonzero(antecedents >= 0):
                before = int(antecedents[index])
                if before not in entities:
                    entities[before] = [_characters(outputs, number, before, item, spec)]
                    of_record.append(entities[before])
                entities[before].append(_characters(outputs, number, int(index), item, spec))
                entities[int(index)] = entities[before]
        return [_prediction(found) for _, found in sorted(clusters.items())]

    @override
    def ceiling(self, items: Sequence[DocumentPart], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Return the scores where every mention that can be learned is found and joined with its entity.

        Args:
            items: The parts, with labels.
            records: The records.
            spec: What examples depend on.

        Returns:
            The scores; below 1 where mentions are no spans of ids, or too long, or entities span several parts.
        """
        clusters: dict[int, list[list[list[int]]]] = {}
        for item in items:
            entities: dict[int, list[list[int]]] = {}
            for window, first, width, entity in item.label or ():
                span = _trimmed(item.text, item.spans[window][first, 0], item.spans[window][first + width, 1])
                entities.setdefault(entity, []).append(span)
            clusters.setdefault(item.record, []).extend(entities.values())
        return self.score([_prediction(found) for _, found in sorted(clusters.items())], records, spec)

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute MUC, B-cubed, CEAF and their mean; of GAP's records the F1 of names by gender too."""
        counts = np.array(
            [
                coreference.document_counts(
                    _spans_of(prediction["clusters"]), clusters_of(record, spec.config)
                )
                for prediction, record in zip(predictions, records, strict=True)
            ]
        )
        figures = coreference.figures(counts)
        if not all("gap" in record.values for record in records):
            return Scores(figures, "conll_f1", lambda chosen: coreference.figures(counts[chosen])["conll_f1"])
        rows = [record.values["gap"] for record in records]
        genders = [gap.gender_of(row["pronoun"]) for row in rows]
        meant = np.array([row["coref"] for row in rows])
        spans = np.array([row["spans"] for row in rows])
        chosen_names = [
            _named(prediction["clusters"], row) for prediction, row in zip(predictions, rows, strict=True)
        ]
        gap_counts = gap.gap_counts(np.array(chosen_names), meant)
        baselines = {
            "random": gap.random_choices(len(rows)),
            "nearest": gap.nearest_choices(spans[:, 0], spans[:, 1:]),
        }
        for name, choices in baselines.items():
            figures |= gap.gap_figures(gap.gap_counts(choices, meant), genders, f"gap_{name}")
        figures |= gap.gap_figures(gap_counts, genders)
        return Scores(figures, "gap_f1", lambda chosen: gap.f1_of(gap_counts[chosen]))


def sentence_windows(sentences: np.ndarray, room: int) -> list[Span]:
    """Cut a text to windows of whole sentences, as many as fit; a sentence that does not fit is cut.

    Args:
        sentences: int [n], number of the sentence of each id, ascending.
        room: Most ids of a window, at least 1.

    Returns:
        First id of each window and the one after its last; none of an empty text has an id.

    Raises:
        ConfigError: There is no room.
    """
    if room < 1:
        raise ConfigError("data.sequence_length leaves no room for a text between its special ids")
    bounds = [0, *(np.flatnonzero(np.diff(sentences)) + 1).tolist(), len(sentences)]
    windows: list[Span] = []
    begin = 0
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        if stop - begin > room and start > begin:
            windows.append((begin, start))
            begin = start
        while stop - begin > room:
            windows.append((begin, begin + room))
            begin += room
    return [*windows, (begin, len(sentences))]


def clusters_of(record: Record, config: Coreference) -> list[list[Span]]:
    """Return the mentions of each entity of a record.

    Raises:
        DataError: They are not lists of [start, stop] inside the text, or a mention is in two entities.
    """
    text = record.text(config.text, "objective.text")
    clusters = _spans_of(record.get(config.clusters, "objective.clusters"), record, config.clusters)
    mentions = [mention for cluster in clusters for mention in cluster]
    if any(not 0 <= start < stop <= len(text) for start, stop in mentions) or not all(clusters):
        raise DataError(
            f"{record.where}: {config.clusters!r} must have entities of one mention [start, stop] or more, inside a "
            f"text of {len(text)} characters"
        )
    if len(set(mentions)) < len(mentions):
        twice = next(mention for mention in mentions if mentions.count(mention) > 1)
        raise DataError(f"{record.where}: {config.clusters!r} has the mention {list(twice)} twice")
    return clusters


def mentions_of(record: Record, config: Coreference) -> list[Span]:
    """Return the mentions that are given; DataError where they are no spans of the text. None of no column."""
    if not config.mentions:
        return []
    size = len(record.text(config.text, "objective.text"))
    (mentions,) = _spans_of([record.get(config.mentions, "objective.mentions")], record, config.mentions)
    if any(not 0 <= start < stop <= size for start, stop in mentions):
        raise DataError(
            f"{record.where}: {config.mentions!r} must have mentions [start, stop] inside a text of {size} characters"
        )
    return mentions


def _check_number(count: int, record: Record, spec: TaskSpec) -> None:
    """Raise DataError where more mentions are given than are ranked."""
    most = spec.config.ranking.most_spans(spec.config.windows * spec.length)
    if count > most:
        raise DataError(
            f"{record.where}: {count} mentions are given, and {most} are ranked; raise "
            "objective.ranking.max_spans or objective.ranking.span_fraction"
        )


def _spans_of(value: Any, record: Record | None = None, column: str = "") -> list[list[Span]]:
    """Return nested lists of [start, stop] as tuples; DataError where they are something else."""
    try:
        clusters = [[(start, stop) for start, stop in cluster] for cluster in value]
    except (TypeError, ValueError):
        clusters = None
    if clusters is None or not all(
        type(at) is int for cluster in clusters for span in cluster for at in span
    ):
        where = "" if record is None else f"{record.where}: "
        raise DataError(
            f"{where}{column!r} must be a list of entities, each a list of mentions [start, stop]"
        )
    return clusters


_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]*\s*")


def sentences_of(record: Record, config: Coreference) -> list[Span]:
    """Return the sentences of a record, from its column or by a rule; DataError where they do not ascend."""
    text = record.text(config.text, "objective.text")
    if config.sentences not in record.values:
        matches = [match.span() for match in _SENTENCE.finditer(text)]
        return [(start, stop) for start, stop in matches if stop > start]
    (sentences,) = _spans_of([record.values[config.sentences]], record, config.sentences)
    _check_ascending(sentences, record, config.sentences)
    return sentences


def _speakers_of(record: Record, config: Coreference) -> tuple[list[int], list[Span]]:
    """Return the number of the speaker of each stretch, from 1, and the stretches."""
    if not config.speakers or config.speakers not in record.values:
        return [], []
    value = record.values[config.speakers]
    try:
        stretches = [(start, stop) for start, stop, _ in value]
        names = [str(name) for _, _, name in value]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{record.where}: {config.speakers!r} must be a list of stretches [start, stop, name]"
        ) from error
    (stretches,) = _spans_of([stretches], record, config.speakers)
    _check_ascending(stretches, record, config.speakers)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    return [numbers[name] for name in names], stretches


def _check_ascending(spans: Sequence[Span], record: Record, column: str) -> None:
    flat = [at for span in spans for at in span]
    if sorted(flat) != flat:
        raise DataError(f"{record.where}: the stretches of {column!r} must ascend and not overlap")


def _genre_of(record: Record, config: Coreference) -> int:
    genre = record.values.get(config.genre)
    return config.genres.index(genre) if genre in config.genres else 0


def _numbers_of(spans: np.ndarray, stretches: Sequence[Span]) -> np.ndarray:
    """Return the number of the stretch in which each id ends, from 1; 0 before the first."""
    starts = np.array([start for start, _ in stretches], np.int64)
    # Ids may begin with the space before a word.
    return np.searchsorted(starts, spans[:, 1] - 1, side="right")


def _mentions(
    clusters: Sequence[Sequence[Span]],
    spans: np.ndarray,
    sentences: np.ndarray,
    windows: Sequence[Span],
    config: Coreference,
) -> tuple[tuple[int, int, int, int], ...]:
    """Return (window, first id, number of ids less 1, entity) of mentions that are spans of the windows' ids."""
    mentions = []
    for entity, cluster in enumerate(clusters, start=1):
        for start, stop in cluster:
            first, end = overlapping(spans, start, stop)
            is_short = first < end <= first + config.ranking.max_span_width
            if not is_short or not sentences[first]:
                continue
            # Spans that cross sentences are not ranked, unless they are given.
            if sentences[first] != sentences[end - 1] and not config.mentions:
                continue
            for number, (begin, limit) in enumerate(windows):
                if begin <= first and end <= limit:
                    mentions.append((number, first - begin, end - 1 - first, entity))
    return tuple(mentions)


def _characters(
    outputs: Mapping[str, np.ndarray], number: int, index: int, item: DocumentPart, spec: TaskSpec
) -> list[int]:
    """Return the characters of a span that was kept."""
    window, position = divmod(int(outputs["starts"][number, index]), spec.length)
    first = position - text_start((item.texts[window],), 0, spec)
    last = first + int(outputs["widths"][number, index])
    return _trimmed(item.text, item.spans[window][first, 0], item.spans[window][last, 1])


def _trimmed(text: str, start: int, stop: int) -> list[int]:
    """Return a span of characters without white space at its ends, unless it is all white space."""
    piece = text[start:stop]
    begin = int(start) + len(piece) - len(piece.lstrip())
    end = int(stop) - (len(piece) - len(piece.rstrip()))
    return [begin, end] if begin < end else [int(start), int(stop)]


def _prediction(clusters: Sequence[list[list[int]]]) -> Prediction:
    """Return the prediction of entities; a mention that several spans of ids stand for counts where it is first."""
    seen: set[tuple[int, int]] = set()
    entities = []
    for cluster in clusters:
        mentions = []
        for start, stop in sorted(cluster):
            if (start, stop) not in seen:
                seen.add((start, stop))
                mentions.append([start, stop])
        if len(mentions) > 1:
            entities.append(mentions)
    return {"clusters": sorted(entities)}


def _named(clusters: Sequence[Sequence[Sequence[int]]], row: Mapping[str, Any]) -> list[bool]:
    """Return whether the pronoun of GAP's row is in an entity with a mention inside or around each of both names."""
    pronoun, *names = row["spans"]
    entity = next((cluster for cluster in clusters if list(pronoun) in [list(m) for m in cluster]), [])

    def is_around(one: Sequence[int], other: Sequence[int]) -> bool:
        return one[0] <= other[0] and other[1] <= one[1]

    return [any(is_around(m, name) or is_around(name, m) for m in entity) for name in names]


TASK = CoreferenceTask()
