"""Ratings of chatbots' answers by people, and the SSA of each model with its interval (Adiwardana et al. 2020)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.data.readers import Record, RecordFiles, read_files
from tlx.metrics.resampling import Interval, interval
from tlx.metrics.ssa import SSA, ssa

_LABELS = {"1": 1, "0": 0, "true": 1, "false": 0, "yes": 1, "no": 0, "1.0": 1, "0.0": 0}


class Rating(NamedTuple):
    """One person's rating of one answer."""

    model: str
    """Name of the model; empty where the file has no such column."""
    answer: str
    """Name of the answer, such as its number."""
    sensible: int
    """1 where the answer makes sense, else 0."""
    specific: int
    """1 where the answer is specific to its context, else 0."""


class RatedModel(NamedTuple):
    """The figures of one model, 0 to 1, with 95% bootstrap intervals over answers."""

    model: str
    """Name of the model."""
    sensibleness: Interval
    """Fraction of answers that make sense."""
    specificity: Interval
    """Fraction of answers that make sense and are specific."""
    average: Interval
    """SSA, the mean of the two."""
    answers: int
    """Number of answers."""
    ratings: int
    """Number of ratings."""


def read_ratings(paths: Sequence[str]) -> list[Rating]:
    """Read ratings from files of records with the columns answer, sensible, specific, and perhaps model.

    Raises:
        DataError: A file cannot be read, lacks a column, or has a label that is not 0 or 1.
    """
    records = read_files(tuple(paths), RecordFiles(), "--ssa")
    return [
        Rating(
            record.joined("model", "model") if "model" in record.values else "",
            record.joined("answer", "answer"),
            _label(record, "sensible"),
            _label(record, "specific"),
        )
        for record in records
    ]


def _label(record: Record, column: str) -> int:
    value = record.joined(column, column).strip().lower()
    if value not in _LABELS:
        raise DataError(f"{record.where}: {column} = {value!r} must be 0 or 1 (or no, yes, false, true)")
    return _LABELS[value]


def rated_models(ratings: Sequence[Rating]) -> list[RatedModel]:
    """Compute the figures of each model, in the order of their first ratings."""
    by_model: dict[str, dict[str, list[Rating]]] = {}
    for rating in ratings:
        by_model.setdefault(rating.model, {}).setdefault(rating.answer, []).append(rating)
    return [_rated(model, answers) for model, answers in by_model.items()]


def _rated(model: str, answers: dict[str, list[Rating]]) -> RatedModel:
    # The mean over an answer's raters, of whom answers may have different numbers.
    sensible = np.array([np.mean([rating.sensible for rating in rated]) for rated in answers.values()])
    specific = np.array([np.mean([rating.specific for rating in rated]) for rated in answers.values()])

    def figure(name: str) -> Interval:
        def statistic(chosen: np.ndarray) -> float:
            figures: SSA = ssa(sensible[chosen], specific[chosen])
            return getattr(figures, name)

        return interval(statistic, len(sensible))

    return RatedModel(
        model,
        sensibleness=figure("sensibleness"),
        specificity=figure("specificity"),
        average=figure("average"),
        answers=len(answers),
        ratings=sum(map(len, answers.values())),
    )
