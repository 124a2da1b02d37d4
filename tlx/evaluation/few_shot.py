"""In-context learning: records answered by likelihood, with zero, one or a few examples and no update.

Each record's prompt is a template filled with its columns, preceded by examples of the training records with
their right answers (Brown et al. 2020, 2.4). The prediction is the likeliest choice after the prompt. Choices
are compared in four ways, of which `normalization` selects the one that is the answer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.data.bad_records import BadRecordPolicy
from tlx.data.order import row_generator
from tlx.data.readers import Record, RecordsConfig
from tlx.data.records import RecordSplit, read_records
from tlx.evaluation.answers import Evaluation
from tlx.evaluation.choices import NORMS, TextScore, normalized_scores
from tlx.metrics.classification import accuracy, macro
from tlx.metrics.resampling import mean_of
from tlx.tasks.shared.base import Prediction, Scores
from tlx.tasks.shared.labels import check_label, class_of
from tlx.tasks.shared.templates import filled

# Beside length normalization: divide by the choice's probability without the prompt (Brown et al. 2020, 2.4).
UNCONDITIONAL = "unconditional"
BY = (*NORMS, UNCONDITIONAL)
# Choices that are scored after one unconditional prompt.
_CHOICES_PER_PROMPT = 16


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Templates that make prompts of records, and the comparison of their choices."""

    prompt: str = "{text}\n"
    """Template of a record up to its answer, with {column} for a column."""
    choices: tuple[str, ...] = ("no", "yes")
    """Templates of the answers, two or more."""
    label: str = "label"
    """Column with the right answer."""
    labels: tuple[str, ...] = ("0", "1")
    """Values of that column, one per choice, in the same order."""
    instruction: str = ""
    """Text before everything else."""
    separator: str = "\n\n"
    """Text between examples."""
    shots: int = 0
    """Number of examples before each record, drawn from the training records anew for each record."""
    seed: int = 0
    """Seed of the examples, folded with the record's number."""
    normalization: str = "total"
    """Score by which choices are compared: log-likelihood ("total"), the same per "bytes" or "tokens", or minus the
    log-likelihood after `unconditional_prompt` alone ("unconditional")."""
    unconditional_prompt: str = ""
    """Prompt of the normalization "unconditional"."""
    max_length: int = 0
    """Tokens of the longest prompt with its choice; 0: the training length. Examples that do not fit are
    dropped, the first ones first, then the beginning of the prompt."""
    limit: int = 0
    """Number of records, the first ones of the split; 0: all."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
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
    """Data of an evaluation."""

    records: RecordsConfig = RecordsConfig()
    """Files and splits of the records, as for tasks that are trained."""
    on_bad_record: Literal["error", "skip", "keep"] = "error"
    """Treatment of records that cannot be used, as for tasks that are trained."""
    max_bad_records: int = 1000
    """Number of skipped records of a split beyond which there is an error, at least 0."""


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
    """Config that `tlx evaluate RUN --config=...` reads."""

    objective: FewShot = FewShot()
    """Prompts and choices."""
    data: FewShotData = FewShotData()
    """Records."""


class ChoiceScorer(Protocol):
    """The methods that an evaluation needs of a model, such as tlx.LoadedModel."""

    def score_choices(
        self, prompts: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[list[TextScore]]:
        """Compute the likelihood of each choice after its prompt."""
        ...

    def num_tokens(self, prompt: str, choices: Sequence[str]) -> int:
        """Count the tokens of the prompt with its longest choice, as the model reads them."""
        ...


class Question(NamedTuple):
    """A record as the model reads it."""

    prompt: str
    """The instruction, examples and the record's prompt."""
    shots: int
    """Number of examples in the prompt."""
    choices: tuple[str, ...]
    """The answers, filled with the record's columns."""


def evaluate_few_shot(lm: ChoiceScorer, config: FewShotConfig, split: RecordSplit, length: int) -> Evaluation:
    """Answer the records of a split by likelihood, and score the answers.

    Args:
        lm: The model.
        config: Prompts, choices and records.
        split: "train", "validation" or "test".
        length: Tokens of the longest prompt with its choice if the config says 0.

    Returns:
        Predictions and scores.

    Raises:
        ConfigError: the config is not legal; raised before anything is scored.
        DataError: records cannot be read.
    """
    few_shot = config.objective
    few_shot.validate()
    policy = BadRecordPolicy(config.data.on_bad_record, config.data.max_bad_records)

    def check(record: Record) -> None:
        check_label(record, few_shot.label, few_shot.labels)

    records = read_records(config.data.records, split, few_shot.seed, policy, check)
    records = records[: few_shot.limit or len(records)]
    examples: Sequence[Record] = ()
    if few_shot.shots:
        examples = read_records(config.data.records, "train", few_shot.seed, policy, check)
    if few_shot.shots > len(examples):
        raise ConfigError(
            f"objective.shots = {few_shot.shots} are more than the {len(examples)} training records"
        )
    true = np.array([class_of(record, few_shot.label, few_shot.labels) for record in records])
    length = few_shot.max_length or length
    questions = [
        question(lm, few_shot, record, examples, number, length) for number, record in enumerate(records)
    ]
    values = _choice_values(lm, few_shot, questions)
    answers: list[Prediction] = [
        {
            "label": few_shot.labels[int(np.argmax(by_norm[few_shot.normalization]))],
            **{norm: [round(float(value), 4) for value in by_norm[norm]] for norm in BY},
            "shots": asked.shots,
            "prompt": asked.prompt,
            "choices": list(asked.choices),
        }
        for by_norm, asked in zip(values, questions, strict=True)
    ]
    predicted = {norm: np.array([int(np.argmax(by_norm[norm])) for by_norm in values]) for norm in BY}
    scores = _scores(few_shot, predicted, true, [asked.shots for asked in questions])
    return Evaluation(scores.figures, scores, answers, records)


def question(
    lm: ChoiceScorer,
    few_shot: FewShot,
    record: Record,
    examples: Sequence[Record],
    number: int,
    length: int,
) -> Question:
    """Build a record's prompt, with as many examples as fit `length` tokens with its longest choice.

    Args:
        lm: The model, which counts tokens.
        few_shot: Prompts and choices.
        record: The record.
        examples: Training records; one that is the record itself is skipped.
        number: Number of the record, which selects its examples.
        length: Tokens of the longest prompt with its choice.

    Returns:
        The prompt, the number of examples in it, and the choices.
    """
    choices = tuple(filled(choice, record, "objective.choices") for choice in few_shot.choices)
    order: Sequence[int] | np.ndarray = ()
    if few_shot.shots:
        order = row_generator(few_shot.seed, "shots", number).permutation(len(examples))
    # One more than needed, since the record itself may be among them.
    candidates = [examples[index] for index in order[: few_shot.shots + 1]]
    chosen = [example for example in candidates if example.where != record.where]
    texts = [_solved_example(few_shot, example) for example in chosen[: few_shot.shots]]
    record_prompt = filled(few_shot.prompt, record, "objective.prompt")
    prompt = record_prompt
    for first in range(len(texts) + 1):
        prompt = few_shot.instruction + few_shot.separator.join([*texts[first:], record_prompt])
        if lm.num_tokens(prompt, choices) <= length:
            return Question(prompt, len(texts) - first, choices)
    while prompt and lm.num_tokens(prompt, choices) > length:
        prompt = prompt[1 + len(prompt) // 16 :]
    return Question(prompt, 0, choices)


def _solved_example(few_shot: FewShot, example: Record) -> str:
    """Return an example with its right answer."""
    answer = few_shot.choices[class_of(example, few_shot.label, few_shot.labels)]
    return filled(few_shot.prompt + answer, example, "objective.prompt")


def _choice_values(
    lm: ChoiceScorer, few_shot: FewShot, questions: Sequence[Question]
) -> list[dict[str, list[float]]]:
    """Return {normalization: value of each choice} of each question."""
    prompts = [asked.prompt for asked in questions]
    choices = [asked.choices for asked in questions]
    unconditional = _unconditional(lm, few_shot, choices)
    values = []
    for scores, texts in zip(lm.score_choices(prompts, choices), choices, strict=True):
        by_norm = {norm: normalized_scores(scores, norm) for norm in NORMS}
        by_norm[UNCONDITIONAL] = [
            score.log_likelihood - unconditional[text] for score, text in zip(scores, texts, strict=True)
        ]
        values.append(by_norm)
    return values


def _unconditional(lm: ChoiceScorer, few_shot: FewShot, choices: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the log-likelihood of every distinct choice after the unconditional prompt."""
    texts = sorted({text for options in choices for text in options})
    groups = [
        texts[start : start + _CHOICES_PER_PROMPT] for start in range(0, len(texts), _CHOICES_PER_PROMPT)
    ]
    scores = lm.score_choices([few_shot.unconditional_prompt] * len(groups), groups)
    return {
        text: score.log_likelihood
        for group, group_scores in zip(groups, scores, strict=True)
        for text, score in zip(group, group_scores, strict=True)
    }


def _scores(
    few_shot: FewShot, predicted: dict[str, np.ndarray], true: np.ndarray, shots: list[int]
) -> Scores:
    answers = predicted[few_shot.normalization]
    figures = {
        "accuracy": accuracy(answers, true),
        "macro_f1": float(macro(answers, true, len(few_shot.labels)).f1),
        **{f"accuracy_{norm}": accuracy(predicted[norm], true) for norm in BY},
        "shots": float(np.mean(shots)),
    }
    majority_baseline = float(np.bincount(true).max() / len(true))
    return Scores(figures, "accuracy", mean_of(answers == true), majority_baseline)
