"""Rewards of sampled answers: checkable ones, or a Python function named in the config."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.base.lookup import Table

REWARDS = Table(
    "objective.reward",
    {
        "exact_match": "tlx.rollouts.rewards:exact_match",
        "number": "tlx.rollouts.rewards:number",
    },
)

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class SampledAnswer(NamedTuple):
    """An answer that is to be rewarded."""

    prompt: str
    """The prompt, before it was cut to a row."""
    text: str
    """Text that the policy wrote, without the id that ended it."""
    references: tuple[str, ...]
    """The right answers of the record, by objective.target."""
    ended: bool
    """Whether it ended itself, and was not cut at objective.target_length."""
    record: Mapping[str, Any]
    """The record's columns."""


RewardFunction = Callable[[Sequence[SampledAnswer]], Sequence[float]]
"""A number for each answer; a pure function, the same on every host."""


def exact_match(answers: Sequence[SampledAnswer]) -> list[float]:
    """Return 1 for a finished answer that is one of the references, white space around it aside, else 0."""
    return [
        float(answer.ended and answer.text.strip() in {text.strip() for text in answer.references})
        for answer in answers
    ]


def number(answers: Sequence[SampledAnswer]) -> list[float]:
    """Return 1 for an answer whose last number is that of a reference (GSM8K's rule), else 0."""
    scores = []
    for answer in answers:
        last = _last_number(answer.text)
        known = {_last_number(text) for text in answer.references}
        scores.append(float(last is not None and last in known))
    return scores


def rewards_of(function: RewardFunction, name: str, answers: Sequence[SampledAnswer]) -> np.ndarray:
    """Call a reward function.

    Args:
        function: The function.
        name: Its name in the config, for messages.
        answers: The answers.

    Returns:
        float32 [answers].

    Raises:
        DataError: It does not return a finite number for each answer.
    """
    rewards = np.asarray(function(answers), np.float32)
    if rewards.shape != (len(answers),):
        raise DataError(
            f"objective.reward = {name!r} returned an array of shape {rewards.shape} for {len(answers)} answers; "
            "it must return a number for each"
        )
    if not np.isfinite(rewards).all():
        text = answers[int(np.argmin(np.isfinite(rewards)))].text
        raise DataError(f"objective.reward = {name!r} returned a number that is not finite for {text!r}")
    return rewards


def _last_number(text: str) -> float | None:
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None
