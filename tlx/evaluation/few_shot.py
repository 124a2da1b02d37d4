"""In-context learning: records answered by likelihood, with zero, one or a few examples and no update.

Each record's prompt is a template filled with its columns, examples of the training records and their right
answers before it (Brown et al. 2020, 2.4); what is answered is the choice that the model finds likeliest
behind it, by four ways to compare choices, of which `by` is the one that counts.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.data.order import row_generator
from tlx.data.readers import Record, RecordsConfig
from tlx.data.records import read_records
from tlx.evaluation.answers import Evaluation
from tlx.evaluation.choices import NORMS, TextScore, normalized_scores
from tlx.metrics.classification import accuracy, macro
from tlx.metrics.resampling import mean_of
from tlx.tasks.shared.base import Prediction, Scores
from tlx.tasks.shared.labels import class_of
from tlx.tasks.shared.templates import filled

# Besides the norms of a choice by itself: how much likelier the prompt makes it (Brown et al. 2020, 2.4).
UNCONDITIONAL = "unconditional"
BY = (*NORMS, UNCONDITIONAL)
_TOGETHER = 16  # choices behind one neutral prompt


@dataclasses.dataclass(frozen=True)
class FewShot:
    """What is asked, and how often it is shown.

    prompt: a template of a record up to its answer, with {column} for a column. choices: templates of the
    answers. label: the column that says which is right, by one of `labels`, which stand for the choices in
    order. instruction: what stands before everything; separator: what stands between examples. shots:
    examples before each record, drawn from the training records anew for each of them, by `seed` and the
    record's number. normalization: how choices are compared, their log-likelihood ("total"), that over their
    "bytes" or "tokens", or less their log-likelihood behind `unconditional_prompt` alone ("unconditional").
    max_length: tokens of the longest prompt with its choice; 0: as long as the model was trained with.
    Examples that do not fit are left out, the first ones first, then the beginning of the prompt. limit: so
    many of the records, the first ones; 0: all.
    """

    prompt: str = "{text}\n"
    choices: tuple[str, ...] = ("no", "yes")
    label: str = "label"
    labels: tuple[str, ...] = ("0", "1")
    instruction: str = ""
    separator: str = "\n\n"
    shots: int = 0
    seed: int = 0
    normalization: str = "total"
    unconditional_prompt: str = ""
    max_length: int = 0
    limit: int = 0

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        if len(self.choices) < 2 or len(self.choices) != len(self.labels):
            raise ConfigError(
                f"objective.choices = {self.choices} must be two or more, "
                f"and objective.labels = {self.labels} as many"
            )
        if self.normalization not in BY:
            raise ConfigError(one_of("objective.normalization", self.normalization, BY))
        for name in ("shots", "max_length", "limit"):
            if getattr(self, name) < 0:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must not be negative")


@dataclasses.dataclass(frozen=True)
class FewShotData:
    """Where the records are, as for tasks that are trained."""

    records: RecordsConfig = RecordsConfig()


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
    """What `tlx evaluate RUN --config=...` reads."""

    objective: FewShot = FewShot()
    data: FewShotData = FewShotData()


class Reader(Protocol):
    """What is asked of a model: tlx.LoadedModel."""

    def score_choices(
        self, prompts: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[list[TextScore]]:
        """How likely each choice is behind its prompt."""
        ...

    def num_tokens(self, prompt: str, choices: Sequence[str]) -> int:
        """Of the prompt with the longest of its choices, as the model reads them."""
        ...


class Question(NamedTuple):
    """A record as it is asked: its prompt, the examples that are in it, and its choices."""

    prompt: str
    shots: int
    choices: tuple[str, ...]


def evaluate_few_shot(lm: Reader, config: FewShotConfig, split: str, length: int) -> Evaluation:
    """Answers to the records of a split, and their scores. length: the longest prompt, where the config says
    0. ConfigError and DataError for what does not fit, before anything is scored."""
    how = config.objective
    how.validate()
    records = read_records(config.data.records, split, how.seed)
    records = records[: how.limit or len(records)]
    examples = read_records(config.data.records, "train", how.seed) if how.shots else []
    if how.shots > len(examples):
        raise ConfigError(f"objective.shots = {how.shots} are more than the {len(examples)} training records")
    true = np.array([class_of(record, how.label, how.labels) for record in records])
    length = how.max_length or length
    asked = [question(lm, how, record, examples, number, length) for number, record in enumerate(records)]
    prompts, choices = [one.prompt for one in asked], [one.choices for one in asked]
    neutral = _neutral(lm, how, choices)
    values = [
        {norm: normalized_scores(scores, norm) for norm in NORMS}
        | {
            UNCONDITIONAL: [
                score.log_likelihood - neutral[text] for score, text in zip(scores, own, strict=True)
            ]
        }
        for scores, own in zip(lm.score_choices(prompts, choices), choices, strict=True)
    ]
    answers: list[Prediction] = [
        {
            "label": how.labels[int(np.argmax(found[how.normalization]))],
            **{norm: [round(float(value), 4) for value in found[norm]] for norm in BY},
            "shots": one.shots,
            "prompt": one.prompt,
            "choices": list(one.choices),
        }
        for found, one in zip(values, asked, strict=True)
    ]
    predicted = {norm: np.array([int(np.argmax(found[norm])) for found in values]) for norm in BY}
    scores = _scores(how, predicted, true, [one.shots for one in asked])
    return Evaluation(scores.figures, scores, answers, records)


def question(
    lm: Reader, how: FewShot, record: Record, examples: Sequence[Record], number: int, length: int
) -> Question:
    """The record's prompt, with as many examples as fit `length` tokens with its longest choice.

    An example that is the record itself is passed over.
    """
    choices = tuple(filled(choice, record, "objective.choices") for choice in how.choices)
    order = row_generator(how.seed, "shots", number).permutation(len(examples)) if how.shots else ()
    chosen = [examples[index] for index in order[: how.shots + 1] if examples[index].where != record.where]
    shown = [_shown(how, example) for example in chosen[: how.shots]]
    own = filled(how.prompt, record, "objective.prompt")
    for first in range(len(shown) + 1):
        prompt = how.instruction + how.separator.join([*shown[first:], own])
        if lm.num_tokens(prompt, choices) <= length:
            return Question(prompt, len(shown) - first, choices)
    while prompt and lm.num_tokens(prompt, choices) > length:
        prompt = prompt[1 + len(prompt) // 16 :]
    return Question(prompt, 0, choices)


def _shown(how: FewShot, example: Record) -> str:
    """An example with its right answer."""
    right = how.choices[class_of(example, how.label, how.labels)]
    return filled(how.prompt + right, example, "objective.prompt")


def _neutral(lm: Reader, how: FewShot, choices: Sequence[Sequence[str]]) -> dict[str, float]:
    """The log-likelihood of every choice behind what says nothing; each text is scored once, in batches."""
    texts = sorted({text for own in choices for text in own})
    parts = [texts[start : start + _TOGETHER] for start in range(0, len(texts), _TOGETHER)]
    scores = lm.score_choices([how.unconditional_prompt] * len(parts), parts)
    return {
        text: score.log_likelihood
        for part, found in zip(parts, scores, strict=True)
        for text, score in zip(part, found, strict=True)
    }


def _scores(how: FewShot, predicted: dict[str, np.ndarray], true: np.ndarray, shots: list[int]) -> Scores:
    figures = {
        "accuracy": accuracy(predicted[how.normalization], true),
        "macro_f1": float(macro(predicted[how.normalization], true, len(how.labels)).f1),
        **{f"accuracy_{norm}": accuracy(predicted[norm], true) for norm in BY},
        "shots": float(np.mean(shots)),
    }
    floor = float(np.bincount(true).max() / len(true))
    return Scores(figures, "accuracy", mean_of(predicted[how.normalization] == true), floor)
