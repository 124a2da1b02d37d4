"""Answers of models judged by a reward model: win rates, and the best of several answers as records to tune on.

With two reward models, of help and of safety, an answer is judged as LLaMA-2's are (Touvron et al. 2023, section
3.2.3): by the safety's probability where it is below the gate or the prompt is one of safety, else by the other's.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.api.loaded_model import LoadedModel
from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.base.files import atomic_open
from tlx.base.place import BucketPath
from tlx.data.readers import Record
from tlx.decode.sampling import Sampling
from tlx.metrics.resampling import interval, mean_of
from tlx.run.spec import spec_of
from tlx.tasks.generation import GenerationColumns
from tlx.tasks.shared.answers import liked_of
from tlx.tasks.shared.templates import columns_of
from tlx.trainer.evaluate import EvaluationRequest, open_records
from tlx.trainer.outcome import to_json
from tlx.trainer.sampled_texts import sample_texts
from tlx.trainer.task_config import get_task


@dataclasses.dataclass(frozen=True)
class Judges:
    """One reward model, or one of help and one of safety."""

    reward: LoadedModel
    """A run of the task 'reward'; of help where there are two."""
    safety: LoadedModel | None = None
    """A run of the task 'reward' whose answers are better the safer they are; None has no gate."""
    gate: float = 0.15
    """Probability of safety, 0 to 1, below which it is the judgement (LLaMA-2: 0.15)."""
    safety_column: str = ""
    """Column that says (true or false) whether a prompt is one of safety; "" is none."""

    def __post_init__(self):
        if not 0 <= self.gate <= 1:
            raise ConfigError(f"gate = {self.gate} must be a probability, 0 to 1")
        if self.safety_column and self.safety is None:
            raise ConfigError(f"safety_column = {self.safety_column!r} is for a reward model of safety")

    def judge(self, records: Sequence[Record], prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Compute a number for each answer; with two models a probability.

        Args:
            records: The record of each answer.
            prompts: The prompt of each answer.
            answers: Texts.

        Returns:
            float64 [answers].
        """
        rewards = self.reward.reward(list(prompts), answers).astype(np.float64)
        if self.safety is None:
            return rewards
        helpful = _sigmoid(rewards)
        safe = _sigmoid(self.safety.reward(list(prompts), answers).astype(np.float64))
        column = self.safety_column
        tagged = [bool(column) and liked_of(record, column, "safety_column") for record in records]
        return gated(helpful, safe, np.array(tagged, bool), self.gate)


class Judged(NamedTuple):
    """Answers with their numbers."""

    records: Sequence[Record]
    """The records."""
    answers: list[list[str]]
    """The answers to each record's prompt."""
    numbers: np.ndarray
    """float64 [records, answers]: the judges' numbers."""


def gated(helpful: np.ndarray, safe: np.ndarray, tagged: np.ndarray, gate: float) -> np.ndarray:
    """Choose between two judgements of each answer.

    Args:
        helpful: Probabilities of help.
        safe: Probabilities of safety.
        tagged: Whether the prompt is one of safety.
        gate: Probability of safety below which it is chosen.

    Returns:
        The chosen probabilities.
    """
    return np.where(tagged | (safe < gate), safe, helpful)


def judge_answers(
    model: LoadedModel,
    judges: Judges,
    request: EvaluationRequest,
    sampling: Sampling,
    num_answers: int = 1,
    seed: int = 0,
) -> Judged:
    """Write answers to the prompts of a model's records, and judge them.

    Args:
        model: Run of a task whose prompts are templates: generation, or one that samples answers.
        judges: Their judges.
        request: Which records.
        sampling: How answers are drawn.
        num_answers: Answers to each prompt.
        seed: Seed of the draws.

    Returns:
        The answers with their numbers.

    Raises:
        ConfigError: The model is of another task.
    """
    config: Any = model.config.objective
    if not isinstance(config, GenerationColumns):
        raise ConfigError(
            "answers are judged of runs of generation, gkd, grpo, online_dpo, ppo and rloo; this is one of "
            f"{config.name!r}"
        )
    pipeline = open_records(model, request)
    records = list(pipeline.records)
    if request.batches is not None:
        records = records[: request.batches * pipeline.batch_size]
    task = get_task(model.config)
    spec: Any = spec_of(model.config, model.tokenizer)
    # Each answer has its number among all, from which its draws follow.
    items = [item for item in pipeline.items[: len(records)] for _ in range(num_answers)]
    sampled = sample_texts(model, items, spec, sampling=sampling, batch_size=pipeline.batch_size, seed=seed)
    texts = [answer["answer"] for answer in task.predictions({"written": sampled.tokens}, items, spec)]
    prompts = [config.read(record) for record in records for _ in range(num_answers)]
    owners = [record for record in records for _ in range(num_answers)]
    numbers = judges.judge(owners, prompts, texts).reshape(len(records), num_answers)
    grouped = [texts[i * num_answers : (i + 1) * num_answers] for i in range(len(records))]
    return Judged(records, grouped, numbers)


def check_same_prompts(first: Judged, second: Judged, other: str) -> None:
    """Check that answers of two models are to the same records.

    Args:
        first: Answers of the first model.
        second: Answers of the second one.
        other: Path of the second one, for the message.

    Raises:
        ConfigError: The records differ.
    """
    if [record.values for record in first.records] != [record.values for record in second.records]:
        raise ConfigError(f"{other} has other records than the first model; --data=GLOB gives both the same")


def win_rate(first: Judged, second: Judged) -> dict[str, Any]:
    """Compare the first answers of two models to the same prompts.

    Args:
        first: Answers of the model whose rate it is.
        second: Answers of the other one.

    Returns:
        "win_rate" (ties count half), "ties", "reward" and "other_reward", and "interval_95" of the rate by the
        bootstrap over prompts.
    """
    difference = first.numbers[:, 0] - second.numbers[:, 0]
    wins = (difference > 0) + 0.5 * (difference == 0)
    return _figures(
        wins,
        "win_rate",
        {
            "ties": float(np.mean(difference == 0)),
            "reward": float(np.mean(first.numbers[:, 0])),
            "other_reward": float(np.mean(second.numbers[:, 0])),
        },
    )


def best_of(judged: Judged) -> dict[str, Any]:
    """Compare the best of n answers with the mean of all.

    Args:
        judged: The answers.

    Returns:
        "gain" with its interval, "reward", "best_reward", and "kl_bound", log n - (n - 1) / n: the divergence of the
        best answer's distribution from the model's, in nats an answer, at most.
    """
    best = judged.numbers.max(axis=1)
    mean = judged.numbers.mean(axis=1)
    count = judged.numbers.shape[1]
    return _figures(
        best - mean,
        "gain",
        {
            "reward": float(np.mean(mean)),
            "best_reward": float(np.mean(best)),
            "kl_bound": math.log(count) - (count - 1) / count,
        },
    )


def write_best(path: str | os.PathLike | BucketPath, judged: Judged, target: str) -> None:
    """Write each record with its best answer, as records to tune on.

    Args:
        path: File of JSON lines.
        judged: The answers.
        target: Template of the target; the answer stands in its column, "answer" where it has not just one.
    """
    columns = columns_of(target)
    column = columns[0] if target == f"{{{columns[0]}}}" else "answer"
    with atomic_open(places.parse(path)) as handle:
        for record, answers, numbers in zip(judged.records, judged.answers, judged.numbers, strict=True):
            best = int(np.argmax(numbers))
            line = dict(record.values) | {column: answers[best], "reward": float(numbers[best])}
            handle.write(to_json(line) + "\n")


def _figures(values: np.ndarray, main: str, others: Mapping[str, float]) -> dict[str, Any]:
    bounds = interval(mean_of(values), len(values))
    return {
        "records": len(values),
        "main": main,
        "interval_95": [bounds.low, bounds.high],
        main: bounds.value,
        **others,
    }


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * values))
