"""Stress tests of a classifier: is it right, and for the right reasons?

    partial     the accuracy of a linear baseline that was trained and is tested on one text of a pair alone, such as
                the hypothesis (Poliak et al. 2018): what is above the majority needs no reasoning about the pair
    blanked     the model's own accuracy where the other texts are empty
    typos       two letters exchanged in a fraction of the words: the prediction should stay
    paraphrase  other spellings of the same words: the prediction should stay
    negation    an auxiliary negated: the prediction should often change
    contrast    sets of records that differ a little and have different labels: a set counts where all of it is right
                (Gardner et al. 2020)
    outside     records unlike those of training: do they get lower probabilities? (Hendrycks and Gimpel 2017)
    harmful     records of one's own lists, each list alone: its accuracy, or how often each label was predicted

Every figure has its bootstrap interval.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.readers import Record
from tlx.evaluation.linear import linear_scores
from tlx.evaluation.perturbations import (
    NEGATIONS,
    PARAPHRASES,
    TextChange,
    changed_records,
    exchange,
    negations,
    only_column,
    typos,
)
from tlx.metrics.detection import auroc, false_positive_rate
from tlx.metrics.resampling import Interval, interval, mean_of
from tlx.tasks.classification import Classes
from tlx.tasks.shared.base import Prediction, Task
from tlx.tasks.shared.labels import class_of

Predict = Callable[[Sequence[Record], bool], list[Prediction]]
"""Records, and whether they have labels, to a prediction for each."""


@dataclasses.dataclass(frozen=True)
class StressConfig:
    """Lists and files of the tests; a test without its file is left out."""

    typo_fraction: float = 0.1
    """Fraction of the words of 4 letters or more that get a typo, above 0 and at most 1."""
    negations: tuple[tuple[str, ...], ...] = NEGATIONS
    """Pairs of words and their negation; English auxiliaries by default."""
    paraphrases: tuple[tuple[str, ...], ...] = PARAPHRASES
    """Pairs of words of the same meaning; English contractions by default."""
    contrast: str = ""
    """Glob of files of records with labels, and with `contrast_column`; empty: no such test."""
    contrast_column: str = "set"
    """Column whose equal values make records a set."""
    outside: str = ""
    """Glob of files of records unlike those of training; they need no labels; empty: no such test."""
    harmful: tuple[str, ...] = ()
    """Globs of files of harmful records, each a list of its own; labels are used where all records have one."""
    seed: int = 0
    """Seed of typos and of the bootstrap."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        if not 0 < self.typo_fraction <= 1:
            raise ConfigError(f"typo_fraction = {self.typo_fraction} must be above 0 and at most 1")
        for name in ("negations", "paraphrases"):
            pairs = getattr(self, name)
            if not pairs or not all(len(pair) == 2 and all(pair) for pair in pairs):
                raise ConfigError(f"{name} must be pairs of words, such as [['is', 'is not']], at least one")


class StressRow(NamedTuple):
    """A figure of one test."""

    test: str
    """The test, with the column or the file that it is of."""
    figure: str
    """Name of the figure."""
    records: int
    """Number of records, or of sets."""
    value: Interval
    """The figure and its 95% interval."""


class Records(NamedTuple):
    """Records of the tests."""

    train: Sequence[Record]
    """Training records, of the linear baseline."""
    evaluated: Sequence[Record]
    """Records of the split, with labels."""
    contrast: Sequence[Record]
    """Those of `StressConfig.contrast`."""
    outside: Sequence[Record]
    """Those of `StressConfig.outside`."""
    harmful: Mapping[str, Sequence[Record]]
    """Those of `StressConfig.harmful`, by their glob."""


def check(config: Any) -> None:
    """Raise ConfigError for a task other than one class a record."""
    if not isinstance(config, Classes) or config.multi_label:
        raise ConfigError(
            "--stress is for tasks of one class a record (classification, pair_classification), this is "
            f"{getattr(config, 'name', '')}"
        )


def stress(
    predict: Predict, task: Task, config: Classes, records: Records, settings: StressConfig
) -> list[StressRow]:
    """Run all tests for which there are records.

    Args:
        predict: The model.
        task: The task.
        config: Its config, with the labels.
        records: Records of the tests.
        settings: The tests' settings.

    Returns:
        The figures, test by test.

    Raises:
        ConfigError: The task is not one of single classes, or scikit-learn is not installed for a pair of texts.
    """
    check(config)
    evaluated = records.evaluated
    predictions = predict(evaluated, True)
    rows = [_accuracy("as they are", predictions, evaluated, config, settings)]
    labels = [class_of(record, config.label, config.labels) for record in evaluated]
    counts = np.bincount(labels, minlength=len(config.labels))
    rows.append(_mean("majority", "accuracy", np.array(labels) == counts.argmax(), settings))
    columns = task.text_columns(config)
    if len(columns) > 1:
        for name, _ in columns:
            tested = only_column(evaluated, columns, name)
            fitted = only_column(records.train, columns, name)
            linear = linear_scores(task, config, fitted, tested, "words")
            rows.append(_accuracy(f"partial: {name} alone", linear.answers, evaluated, config, settings))
            blanked = predict(tested, True)
            rows.append(_accuracy(f"blanked: all but {name}", blanked, evaluated, config, settings))
    changes = {
        "typos": typos(settings.typo_fraction),
        "paraphrase": exchange(_pairs(settings.paraphrases), once=False),
        "negation": negations(_pairs(settings.negations)),
    }
    for name, change in changes.items():
        rows += _perturbed(name, change, predict, predictions, evaluated, config, columns, settings)
    rows += _from_files(predict, predictions, records, config, settings)
    return rows


def _pairs(values: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(before, after) for before, after in values]


def _perturbed(
    name: str,
    change: TextChange,
    predict: Predict,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    config: Classes,
    columns: Sequence[tuple[str, str]],
    settings: StressConfig,
) -> list[StressRow]:
    """Return how often the prediction stays, and the accuracy before and after where labels stay too."""
    # Of a pair the second text alone is negated: negating both may leave their relation as it was.
    changed_columns = columns[-1:] if name == "negation" else columns
    indices, changed = changed_records(records, changed_columns, change, settings.seed)
    if not changed:
        return []
    after = predict(changed, True)
    before = [predictions[index] for index in indices]
    stays = np.array([one["label"] == other["label"] for one, other in zip(before, after, strict=True)])
    if name == "negation":
        return [_mean(name, "changed", ~stays, settings)]
    original = [records[index] for index in indices]
    return [
        _mean(name, "unchanged", stays, settings),
        _accuracy(f"{name}: before", before, original, config, settings),
        _accuracy(f"{name}: after", after, original, config, settings),
    ]


def _from_files(
    predict: Predict,
    predictions: Sequence[Prediction],
    records: Records,
    config: Classes,
    settings: StressConfig,
) -> list[StressRow]:
    """Return the figures of contrast sets, of records outside and of harmful ones."""
    rows = []
    if records.contrast:
        right = _right(predict(records.contrast, True), records.contrast, config)
        sets: dict[str, list[bool]] = {}
        for record, one in zip(records.contrast, right.tolist(), strict=True):
            name = record.joined(settings.contrast_column, "contrast_column")
            sets.setdefault(name, []).append(one)
        whole = np.array([all(members) for members in sets.values()])
        rows += [
            _mean("contrast", "accuracy", right, settings),
            _mean("contrast", "all of a set right", whole, settings),
        ]
    if records.outside:
        inside = np.array([prediction["probability"] for prediction in predictions])
        outside = np.array([prediction["probability"] for prediction in predict(records.outside, False)])
        rows += _detection(inside, outside, settings)
    for name, harmful in records.harmful.items():
        labelled = all(config.label in record.values for record in harmful)
        found = predict(harmful, labelled)
        if labelled:
            rows.append(_accuracy(f"harmful: {name}", found, harmful, config, settings))
        else:
            predicted = np.array([config.labels.index(prediction["label"]) for prediction in found])
            for number, label in enumerate(config.labels):
                rows.append(_mean(f"harmful: {name}", f"label {label}", predicted == number, settings))
    return rows


def _detection(inside: np.ndarray, outside: np.ndarray, settings: StressConfig) -> list[StressRow]:
    size = len(inside) + len(outside)

    def of(figure: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        def statistic(chosen: np.ndarray) -> float:
            inner = inside[chosen[chosen < len(inside)]]
            outer = outside[chosen[chosen >= len(inside)] - len(inside)]
            # A resample of few records may lack one kind: it says nothing.
            return figure(inner, outer) if len(inner) and len(outer) else 0.5

        return interval(statistic, size, seed=settings.seed)

    return [
        StressRow("outside", "auroc", size, of(auroc)),
        StressRow("outside", "fpr at 95% recall", size, of(false_positive_rate)),
    ]


def _right(predictions: Sequence[Prediction], records: Sequence[Record], config: Classes) -> np.ndarray:
    """Return bool [N]: whether each label is right."""
    true = [config.labels[class_of(record, config.label, config.labels)] for record in records]
    return np.array([one["label"] == label for one, label in zip(predictions, true, strict=True)])


def _accuracy(
    test: str,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    config: Classes,
    settings: StressConfig,
) -> StressRow:
    return _mean(test, "accuracy", _right(predictions, records, config), settings)


def _mean(test: str, figure: str, values: np.ndarray, settings: StressConfig) -> StressRow:
    bounds = interval(mean_of(values), len(values), seed=settings.seed)
    return StressRow(test, figure, len(values), bounds)


def table(rows: Sequence[StressRow]) -> str:
    """Format the figures as a Markdown table."""
    lines = [["test", "figure", "records", "value", "95% interval"], ["---"] * 5]
    for row in rows:
        value = row.value
        bounds = f"{value.low:.4f} to {value.high:.4f}"
        lines.append([row.test, row.figure, str(row.records), f"{value.value:.4f}", bounds])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
