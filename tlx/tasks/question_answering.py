"""Extractive question answering: SQuAD, with and without unanswerable questions.

A row is the question and a window of the context (Devlin et al. 2019, 4.2 and 4.3); long contexts are read in
windows that overlap. The model says for each token how well an answer begins and ends there; the position
whose hidden state represents the row means that the window has none. Spans go by characters into the context
as it was, so that an answer is a piece of it, letter for letter.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError, DataError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics import squad
from tlx.metrics.resampling import mean_of
from tlx.models.heads import TaskHeadConfig
from tlx.tasks.shared.base import Batch, Columns, Prediction, Scores, Task, TaskModule, TaskSpec, check_texts
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model
from tlx.tasks.shared.inputs import ENCODING_KINDS, input_row
from tlx.tasks.shared.soft_losses import class_divergences, weighted
from tlx.tasks.shared.spans import max_text_tokens, text_start, windows
from tlx.text.spans import encode_with_spans, len_of_marks, overlapping
from tlx.text.tokenizer import Tokenizer

_HIDDEN = -1e9  # the logit of a position where no answer can be


@dataclasses.dataclass(frozen=True)
class QuestionAnswering:
    """Columns as SQuAD's file has them, and how contexts are read and answers chosen."""

    name: str = "question_answering"
    """Name in the table of tasks."""
    context: str = "context"
    """Column with the context."""
    question: str = "question"
    """Column with the question."""
    answers: str = "answers"
    """Column with a list of answers, empty where there is none."""
    starts: str = "starts"
    """Column with a list of the characters in the context at which the answers begin."""
    max_question_tokens: int = 64
    """Most tokens of a question, at least 1; a longer one loses its end."""
    stride: int = 128
    """Tokens from one window of the context to the next, at least 1."""
    max_answer_tokens: int = 30
    """Most tokens of an answer, at least 1."""
    no_answer: bool = False
    """Whether the model may predict that there is no answer."""
    null_score_diff_threshold: float = 0.0
    """There is none where that scores more than the best answer plus this, as in BERT's run_squad.py; evaluation
    finds the best value (the figures best_f1_threshold and best_exact_match_threshold)."""
    max_context: bool = True
    """Whether an answer may begin at a token only in the window in which it has the most context, as in BERT's
    run_squad.py, where windows overlap."""
    misplaced: str = "mend"
    """Treatment of an answer that is not at the position that its record states: the nearest one counts ("mend", an
    error where there is none), or also the record is left out of training where there is none ("skip")."""
    head: TaskHeadConfig = dataclasses.field(default_factory=TaskHeadConfig)
    """Layers of the head."""
    frame: Literal["model", "tlx", "tokenizer"] = "model"
    """Special ids of a row: "model", those that the base model was trained with; "tlx" (inputs.py), those of fresh
    parameters; or "tokenizer", as an imported tokenizer's own template has them, which is how models imported with
    their head were trained."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        for name in ("max_question_tokens", "stride", "max_answer_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must be at least 1")
        if self.misplaced not in ("mend", "skip"):
            raise ConfigError(f"objective.misplaced = {self.misplaced!r} is not one of: mend, skip")


class ContextWindow(NamedTuple):
    """A question and a piece of a context."""

    texts: tuple[np.ndarray, ...]
    """int32 ids of the question and of the piece."""
    label: tuple[int, int] | None
    """First and last id of the answer in the piece; (-1, -1) where it has none, None if not known."""
    record: int
    """Index of the record."""
    spans: np.ndarray
    """int [n, 2], characters of each id of the piece in the context."""
    text: str
    """The context."""
    max_context: np.ndarray
    """bool [n], whether the piece is the window in which an id has the most context."""
    skipped: bool = False
    """Whether nothing is learned from it."""


def answer_span(record: Record, text: str, config: QuestionAnswering) -> tuple[tuple[int, int] | None, bool]:
    """Find a record's first answer in its context.

    Args:
        record: The record.
        text: The context.
        config: Its columns, and what becomes of misplaced answers.

    Returns:
        (start and stop of the answer in characters, or None where the record has none; whether the record is
        skipped).

    Raises:
        DataError: The answer is nowhere in the context.
    """
    answers = record.get(config.answers, "objective.answers")
    starts = record.get(config.starts, "objective.starts")
    if not isinstance(answers, list) or not isinstance(starts, list) or len(answers) != len(starts):
        raise DataError(f"{record.where}: {config.answers} and {config.starts} must be lists of one length")
    if not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{record.where}: {config.answers} must be a list of texts")
    if not all(type(start) is int for start in starts):
        raise DataError(f"{record.where}: {config.starts} must be a list of character positions")
    if not answers or not answers[0].strip():
        return None, False
    answer = answers[0]
    start = int(starts[0])
    if text[start : start + len(answer)] == answer:
        return (start, start + len(answer)), False
    occurrences = [at for at in range(len(text) - len(answer) + 1) if text.startswith(answer, at)]
    if occurrences:
        nearest = min(occurrences, key=lambda at: abs(at - start))
        return (nearest, nearest + len(answer)), False
    if config.misplaced == "skip":
        return None, True
    raise DataError(
        f"{record.where}: the answer {answer[:40]!r} does not stand at character {start} of its context, nor "
        "anywhere else; objective.misplaced = 'skip' leaves such records out"
    )


def context_range(item: ContextWindow, spec: TaskSpec) -> tuple[int, int]:
    """Return (start, stop) of the piece of the context in the row whose hidden states count."""
    start = text_start(item.texts, 1, spec)
    return start, start + len(item.texts[1])


class SpanModule(TaskModule):
    """A model of any kind and a linear map of every hidden state to two numbers."""

    can_distill = True

    def setup(self) -> None:
        """Build the language model and the head."""
        self.lm = language_model(self.model)
        self.heads = TaskHeads(self.model, self.config.name, 2, per_token=True, shape=self.config.head)

    @override
    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return logits [B, T, 2] of first and of last positions."""
        logits_BT2 = self.heads(hidden_states(self.lm, batch, keys, self.heads), keys)
        return {"logits": jnp.where(batch["allowed"][..., None] > 0, logits_BT2, _HIDDEN)}

    @override
    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the mean of both cross-entropies, and how often both positions are right."""
        logits_BT2 = outputs["logits"]
        label = batch["label"]
        weights = batch["weights"]
        log_p = jax.nn.log_softmax(logits_BT2, axis=1)
        chosen = jnp.take_along_axis(log_p, label[:, None, :], axis=1)[:, 0]
        hits = jnp.all(jnp.argmax(logits_BT2, axis=1) == label, axis=-1)
        count = jnp.sum(weights)
        return {
            "loss": Term(-jnp.sum(jnp.mean(chosen, axis=-1) * weights), count, 1.0),
            "accuracy": Term(jnp.sum(hits * weights), count),
        }

    @override
    def soft_loss(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Term:
        """Return the mean of both divergences over the positions."""
        values_B2 = class_divergences(student["logits"], teacher["logits"], temperature, dim=1)
        return weighted(jnp.mean(values_B2, axis=-1), batch["weights"], temperature)


def best_span(logits: np.ndarray, item: ContextWindow, spec: TaskSpec) -> tuple[dict[str, Any], float]:
    """Choose the best answer of a window.

    Args:
        logits: float [T, 2] of first and of last positions.
        item: The window.
        spec: What examples depend on.

    Returns:
        ({"answer", "start", "score"}, the score of there being none): sums of a first and a last logit.
    """
    start, stop = context_range(item, spec)
    place = int(input_row(item.texts, spec)["place"])
    none_score = float(logits[place].sum())
    first = logits[start:stop, 0]
    last = logits[start:stop, 1]
    if not len(first):
        return {"answer": "", "start": -1, "score": -np.inf}, none_score
    if spec.config.max_context:
        first = np.where(item.max_context, first, -np.inf)
    sums = first[:, None] + last[None, :]
    distance = np.arange(len(last))[None, :] - np.arange(len(first))[:, None]
    sums = np.where((distance >= 0) & (distance < spec.config.max_answer_tokens), sums, -np.inf)
    if np.isneginf(sums).all():  # all of its ids have more context in other windows
        return {"answer": "", "start": -1, "score": -np.inf}, none_score
    i, j = np.unravel_index(int(sums.argmax()), sums.shape)
    return _answer_of(item, int(i), int(j)) | {"score": float(sums[i, j])}, none_score


def _answer_of(item: ContextWindow, first: int, last: int) -> dict[str, Any]:
    """The piece of the context that ids first..last of a window stand for, and where it starts."""
    begin = int(item.spans[first, 0])
    end = int(item.spans[last, 1])
    # A tokenizer that composes characters leaves the marks of decomposed text without an id.
    following = item.spans[last + 1 :, 0]
    limit = int(following[following >= end].min(initial=len(item.text)))
    end += len_of_marks(item.text[end:limit])
    text = item.text[begin:end]
    begin += len(text) - len(text.lstrip())  # ids may begin with the space before a word
    return {"answer": text.strip(), "start": begin}


class QuestionAnsweringTask(Task):
    """A question and a context, a span of the context."""

    config_class = QuestionAnswering
    module = SpanModule
    kinds = ENCODING_KINDS
    one_to_many = True

    @override
    def infer_labels(self, config: QuestionAnswering, records: Sequence[Record]) -> QuestionAnswering:
        """Return the config; raises ConfigError for a threshold that nothing is compared with."""
        del records
        if config.null_score_diff_threshold and not config.no_answer:
            raise ConfigError(
                f"objective.null_score_diff_threshold = {config.null_score_diff_threshold} is for "
                "objective.no_answer = True"
            )
        return config

    @override
    def text_columns(self, config: QuestionAnswering) -> Columns:
        """Return question and context."""
        return ((config.question, "objective.question"), (config.context, "objective.context"))

    @override
    def check_record(self, config: QuestionAnswering, record: Record) -> None:
        """Raise DataError where question or context is missing or not valid, or the answer is not in it."""
        check_texts(record, self.text_columns(config))
        answer_span(record, record.text(config.context, "objective.context"), config)

    @override
    def ceiling(self, items: Sequence[ContextWindow], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Return the scores where the labelled span of every window is predicted.

        Args:
            items: The windows, with labels.
            records: The records.
            spec: What examples depend on.

        Returns:
            The scores; below 1 where no span of ids is an answer, or none of max_answer_tokens.
        """
        best: dict[int, Prediction] = {}
        for item in items:
            span = {"answer": "", "start": -1}
            first, last = item.label or (-1, -1)
            if first >= 0 and (item.max_context[first] or not spec.config.max_context):
                span = _answer_of(item, first, min(last, first + spec.config.max_answer_tokens - 1))
            if item.record not in best or (span["answer"] and not best[item.record]["answer"]):
                best[item.record] = span
        return self.score([best[number] for number in sorted(best)], records, spec)

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[ContextWindow]:
        """Make the windows of each record. Each context is tokenized once.

        Returns:
            A window or more of each record.
        """
        config = spec.config
        encoded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        items = []
        for number, record in enumerate(records):
            question = tokenizer.encode_batch([record.text(config.question, "objective.question")])[0]
            question = question[: config.max_question_tokens]
            text = record.text(config.context, "objective.context")
            if text not in encoded:
                encoded[text] = encode_with_spans(tokenizer, text)
            room = max_text_tokens(2, spec) - len(question)
            if room < 1:
                raise ConfigError(
                    f"data.sequence_length = {spec.length} leaves no room for a context after "
                    f"objective.max_question_tokens = {config.max_question_tokens}"
                )
            characters, skipped = answer_span(record, text, config) if labelled else (None, False)
            ids, spans = encoded[text]
            first, stop_answer = overlapping(spans, *characters) if characters else (0, 0)
            pieces = list(windows(len(ids), room, min(config.stride, room)))
            for (start, stop), most in zip(pieces, max_context(pieces), strict=True):
                inside = first < stop_answer and start <= first and stop_answer <= stop
                label = (first - start, stop_answer - 1 - start) if inside else (-1, -1)
                items.append(
                    ContextWindow(
                        (question, ids[start:stop]),
                        label if labelled else None,
                        number,
                        spans[start:stop],
                        text,
                        most,
                        skipped,
                    )
                )
        return items

    @override
    def empty_item(self, spec: TaskSpec) -> ContextWindow:
        """Return a window of nothing."""
        none = np.zeros(0, np.int32)
        return ContextWindow((none, none), None, 0, np.zeros((0, 2), np.int32), "", np.zeros(0, bool))

    @override
    def example(self, rng: np.random.Generator, item: ContextWindow, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make the row of a window.

        item: The window.

        Returns:
            The row's arrays; label int32 [2], positions in it; allowed [length], 1 where an answer may be;
            weights [].
        """
        del rng
        arrays = input_row(item.texts, spec)
        start, stop = context_range(item, spec)
        place = int(arrays["place"])
        allowed = np.zeros(spec.length, np.float32)
        allowed[start:stop] = 1.0
        allowed[place] = 1.0
        label = item.label or (-1, -1)
        positions = [start + at if label[0] >= 0 else place for at in label]
        return arrays | {
            "label": np.array(positions, np.int32),
            "allowed": allowed,
            "weights": np.array(not item.skipped, np.float32),
        }

    @override
    def predictions(
        self, outputs: Mapping[str, np.ndarray], items: Sequence[ContextWindow], spec: TaskSpec
    ) -> list[Prediction]:
        """Choose the best span of all windows of each record.

        outputs: "logits" [items, T, 2].
        items: The windows.

        Returns:
            {"answer", "start", "score", "no_answer_score"}, and where there may be no answer "best_answer"; where
            the model predicts that there is none, "answer" is "" and its start -1.
        """
        best: dict[int, Prediction] = {}
        for logits, item in zip(outputs["logits"], items, strict=True):
            span, none_score = best_span(logits, item, spec)
            old = best.get(item.record)
            if old is None:
                best[item.record] = span | {"no_answer_score": none_score}
                continue
            better = span if span["score"] > old["score"] else old
            none_score = min(none_score, old["no_answer_score"])
            best[item.record] = {**old, **better, "no_answer_score": none_score}
        return [final_answer(prediction, spec.config) for _, prediction in sorted(best.items())]

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute exact match and F1 as SQuAD's scripts do, and the best threshold where there may be no answer."""
        predicted = [prediction["answer"] for prediction in predictions]
        true = [record.get(spec.config.answers, "objective.answers") for record in records]
        figures = squad.scores(predicted, true)
        if spec.config.no_answer and predictions and "best_answer" in predictions[0]:
            best = [prediction["best_answer"] for prediction in predictions]
            differences = [_null_score_diff(prediction) for prediction in predictions]
            figures |= squad.best_thresholds(best, true, differences)
        return Scores(figures, "f1", mean_of(squad.per_example(predicted, true, squad.f1)))


def max_context(pieces: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Find the window in which each id of a context has the most context.

    That is the first with the largest min(ids before it, ids after it) + 0.01 * length (BERT's run_squad.py).

    Args:
        pieces: (start, stop) of the windows.

    Returns:
        bool [stop - start] of each window.
    """
    total = max((stop for _, stop in pieces), default=0)
    context = np.full((len(pieces), total), -np.inf)
    for row, (start, stop) in zip(context, pieces, strict=True):
        before = np.arange(stop - start)
        row[start:stop] = np.minimum(before, before[::-1]) + 0.01 * (stop - start)
    chosen = context.argmax(axis=0) if pieces else np.zeros(0, int)
    return [chosen[start:stop] == number for number, (start, stop) in enumerate(pieces)]


def _null_score_diff(prediction: Prediction) -> float:
    # Four digits as the scores have: a threshold that evaluation finds is then exact as it is printed.
    return round(prediction["no_answer_score"] - prediction["score"], 4)


def final_answer(prediction: Prediction, config: QuestionAnswering) -> Prediction:
    """Replace the best answer by none where that scores more by the threshold; scores have four digits."""
    prediction = prediction | {name: round(prediction[name], 4) for name in ("score", "no_answer_score")}
    if config.no_answer:
        prediction = prediction | {"best_answer": prediction["answer"]}
        if _null_score_diff(prediction) > config.null_score_diff_threshold:
            prediction = prediction | {"answer": "", "start": -1}
    return prediction


TASK = QuestionAnsweringTask()
