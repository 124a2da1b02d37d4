"""Where in a context the answer to a question stands: SQuAD, with and without questions that have none.

A row is the question and a window of the context (Devlin et al. 2019, 4.2 and 4.3); long contexts are read in
windows that overlap. The model says for each place how well an answer begins and ends there; the place whose
hidden state speaks for the row means that the window has none. Spans go by characters into the context as it
was, so that an answer is a piece of it, letter for letter.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics import squad
from tlx.metrics.resampling import mean_of
from tlx.tasks.shared.base import Batch, Prediction, Scores, Task, TaskModule, TaskSpec
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model
from tlx.tasks.shared.inputs import KINDS, input_row
from tlx.tasks.shared.spans import begin_of, room_for, windows
from tlx.text.spans import encode_with_spans, overlapping
from tlx.text.tokenizer import Tokenizer

_HIDDEN = -1e9  # the logit of a place that cannot be


@dataclasses.dataclass(frozen=True)
class QuestionAnswering:
    """Columns as SQuAD's file has them: answers and starts are lists, empty where there is no answer.

    max_question_tokens: a longer question loses its end. stride: ids from one window to the next.
    max_answer_tokens: the longest answer. no_answer: whether the model may say that there is none; then it
    does where that scores more than the best answer less `no_answer_threshold`. misplaced: what becomes of an
    answer that does not stand where the record says: it is looked for near by ("mend", an error where it is
    nowhere), or the record is left out of training where it is nowhere ("skip").
    """

    name: str = "question_answering"
    context: str = "context"
    question: str = "question"
    answers: str = "answers"
    starts: str = "starts"
    max_question_tokens: int = 64
    stride: int = 128
    max_answer_tokens: int = 30
    no_answer: bool = False
    no_answer_threshold: float = 0.0
    misplaced: str = "mend"

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        for name in ("max_question_tokens", "stride", "max_answer_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must be at least 1")
        if self.misplaced not in ("mend", "skip"):
            raise ConfigError(f"objective.misplaced = {self.misplaced!r} is not one of: mend, skip")


class ContextWindow(NamedTuple):
    """A question and a piece of a context. label: first and last id of the answer in the piece; (-1, -1)
    where it has none, None where that is not known. spans: characters of each of its ids; `text` is the
    context. skipped: nothing is learned from it."""

    texts: tuple[np.ndarray, ...]
    label: tuple[int, int] | None
    record: int
    spans: np.ndarray
    text: str
    skipped: bool = False


def complete(config: QuestionAnswering, records: Sequence[Record]) -> QuestionAnswering:
    """Nothing is left open."""
    return config


def texts(config: QuestionAnswering) -> tuple[tuple[str, str], ...]:
    """Question and context."""
    return ((config.question, "objective.question"), (config.context, "objective.context"))


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[ContextWindow]:
    """A window or more of each record. Contexts are tokenised once each."""
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    made = []
    for number, record in enumerate(records):
        (question, field), (context, other) = texts(spec.config)
        asked = tokenizer.encode_batch([record.text(question, field)])[0][: spec.config.max_question_tokens]
        text = record.text(context, other)
        if text not in known:
            known[text] = encode_with_spans(tokenizer, text)
        made += _windows(record, number, asked, text, known[text], spec, labelled)
    return made


def _windows(
    record: Record,
    number: int,
    asked: np.ndarray,
    text: str,
    encoded: tuple[np.ndarray, np.ndarray],
    spec: TaskSpec,
    labelled: bool,
) -> list[ContextWindow]:
    ids, spans = encoded
    room = room_for(2, spec) - len(asked)
    if room < 1:
        raise ConfigError(
            f"data.sequence_length = {spec.length} leaves no room for a context behind "
            f"objective.max_question_tokens = {spec.config.max_question_tokens}"
        )
    where, skipped = answer_span(record, text, spec.config) if labelled else (None, False)
    first, behind = overlapping(spans, *where) if where else (0, 0)
    made = []
    for start, stop in windows(len(ids), room, min(spec.config.stride, room)):
        inside = first < behind and start <= first and behind <= stop
        label = (first - start, behind - 1 - start) if inside else (-1, -1)
        piece = (asked, ids[start:stop])
        made.append(
            ContextWindow(piece, label if labelled else None, number, spans[start:stop], text, skipped)
        )
    return made


def answer_span(record: Record, text: str, config: QuestionAnswering) -> tuple[tuple[int, int] | None, bool]:
    """(characters of the record's first answer, or None where it has none; whether it is to be skipped).

    DataError where the answer is nowhere in the context.
    """
    answers, starts = (record.get(name, f"objective.{field}") for name, field in _answer_columns(config))
    if not isinstance(answers, list) or not isinstance(starts, list) or len(answers) != len(starts):
        raise DataError(f"{record.where}: {config.answers} and {config.starts} must be lists of one length")
    if not answers or not answers[0].strip():
        return None, False
    answer, start = answers[0], int(starts[0])
    if text[start : start + len(answer)] == answer:
        return (start, start + len(answer)), False
    found = [at for at in range(len(text) - len(answer) + 1) if text.startswith(answer, at)]
    if found:
        near = min(found, key=lambda at: abs(at - start))
        return (near, near + len(answer)), False
    if config.misplaced == "skip":
        return None, True
    raise DataError(
        f"{record.where}: the answer {answer[:40]!r} does not stand at character {start} of its context, nor "
        "anywhere else; objective.misplaced = 'skip' leaves such records out"
    )


def _answer_columns(config: QuestionAnswering) -> tuple[tuple[str, str], ...]:
    return (config.answers, "answers"), (config.starts, "starts")


def blank(spec: TaskSpec) -> ContextWindow:
    """A window of nothing."""
    none = np.zeros(0, np.int32)
    return ContextWindow((none, none), None, 0, np.zeros((0, 2), np.int32), "")


def example(rng: np.random.Generator, item: ContextWindow, spec: TaskSpec) -> dict[str, np.ndarray]:
    """The row; label int32 [2], places in it; allowed [length]: 1 where an answer may be; weights []."""
    del rng
    arrays, (begin, behind) = input_row(item.texts, spec), context_places(item, spec)
    place = int(arrays["place"])
    allowed = np.zeros(spec.length, np.float32)
    allowed[begin:behind] = 1.0
    allowed[place] = 1.0
    label = item.label or (-1, -1)
    places = [begin + at if label[0] >= 0 else place for at in label]
    return arrays | {
        "label": np.array(places, np.int32),
        "allowed": allowed,
        "weights": np.array(not item.skipped, np.float32),
    }


def context_places(item: ContextWindow, spec: TaskSpec) -> tuple[int, int]:
    """Where the piece of the context stands in the row whose hidden states count: first, behind last."""
    begin = begin_of(item.texts, 1, spec)
    return begin, begin + len(item.texts[1])


class SpanModule(TaskModule):
    """A model of any shape and a linear map of every hidden state to two numbers."""

    def setup(self):
        self.lm = language_model(self.model)
        self.heads = TaskHeads(self.model, self.config.name, 2, of_places=True)

    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """logits [B, T, 2]: of first places and of last ones."""
        logits_BT2 = self.heads(hidden_states(self.lm, batch, keys), keys)
        return {"logits": jnp.where(batch["allowed"][..., None] > 0, logits_BT2, _HIDDEN)}

    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """The mean of both cross-entropies, and how often both places are right."""
        logits_BT2, label, weights = outputs["logits"], batch["label"], batch["weights"]
        log_p = jax.nn.log_softmax(logits_BT2, axis=1)
        chosen = jnp.take_along_axis(log_p, label[:, None, :], axis=1)[:, 0]
        hits = jnp.all(jnp.argmax(logits_BT2, axis=1) == label, axis=-1)
        count = jnp.sum(weights)
        return {
            "loss": Term(-jnp.sum(jnp.mean(chosen, axis=-1) * weights), count, 1.0),
            "accuracy": Term(jnp.sum(hits * weights), count),
        }


def answers(
    outputs: Mapping[str, np.ndarray], items: Sequence[ContextWindow], spec: TaskSpec
) -> list[Prediction]:
    """{"answer", "start", "score", "no_answer_score"}: of each record the best span of all its windows.

    Where the model may say that there is none, an answer is "" and its start -1.
    """
    found: dict[int, Prediction] = {}
    for logits, item in zip(outputs["logits"], items, strict=True):
        span, none = best_span(logits, item, spec)
        old = found.get(item.record)
        if old is None:
            found[item.record] = span | {"no_answer_score": none}
            continue
        best = span if span["score"] > old["score"] else old
        found[item.record] = {**old, **best, "no_answer_score": min(none, old["no_answer_score"])}
    return [_said(answer, spec.config) for _, answer in sorted(found.items())]


def best_span(logits: np.ndarray, item: ContextWindow, spec: TaskSpec) -> tuple[dict[str, Any], float]:
    """(the best answer of a window, the score of there being none): sums of a first and a last logit."""
    begin, behind = context_places(item, spec)
    place = int(input_row(item.texts, spec)["place"])
    none = float(logits[place].sum())
    first, last = logits[begin:behind, 0], logits[begin:behind, 1]
    if not len(first):
        return {"answer": "", "start": -1, "score": -np.inf}, none
    sums = first[:, None] + last[None, :]
    distance = np.arange(len(last))[None, :] - np.arange(len(first))[:, None]
    sums = np.where((distance >= 0) & (distance < spec.config.max_answer_tokens), sums, -np.inf)
    i, j = np.unravel_index(int(sums.argmax()), sums.shape)
    start, stop = int(item.spans[i, 0]), int(item.spans[j, 1])
    text = item.text[start:stop]
    start += len(text) - len(text.lstrip())  # ids may begin with the space before a word
    return {"answer": text.strip(), "start": start, "score": float(sums[i, j])}, none


def _said(answer: Prediction, config: QuestionAnswering) -> Prediction:
    if config.no_answer and answer["no_answer_score"] > answer["score"] - config.no_answer_threshold:
        answer = answer | {"answer": "", "start": -1}
    return answer | {name: round(answer[name], 4) for name in ("score", "no_answer_score")}


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """Exact match and F1 as SQuAD's scripts have them."""
    said = [answer["answer"] for answer in answers]
    known = [record.get(spec.config.answers, "objective.answers") for record in records]
    return Scores(squad.scores(said, known), "f1", mean_of(squad.per_example(said, known, squad.f1)))


TASK = Task(
    QuestionAnswering, complete, texts, prepare, blank, example, SpanModule, answers, score, KINDS, cuts=True
)
