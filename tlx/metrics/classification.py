"""Metrics of classes: single labels int[N], or sets of labels bool[N, C]."""

from typing import NamedTuple

import numpy as np


class Rates(NamedTuple):
    """Precision, recall and F1; floats, or arrays of one for each class. 0 where nothing is counted."""

    precision: float | np.ndarray
    recall: float | np.ndarray
    f1: float | np.ndarray


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Share of examples that are right; of sets of labels, those that are right as a whole."""
    predicted, true = _same(predicted, true)
    return float(np.mean((predicted == true).reshape(len(true), -1).all(axis=1)))


def confusion(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [C, C]: how many examples of class i (rows) were taken for class j."""
    predicted, true = _same(predicted, true)
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def per_class(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> Rates:
    """Precision, recall and F1 of each class by itself, [C] each."""
    return _rates(*_counts(predicted, true, num_classes))


def macro(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> Rates:
    """Means over the classes. Classes neither true nor predicted anywhere do not count, unless the labels
    are sets (scikit-learn's rule)."""
    hits, said, there = _counts(predicted, true, num_classes)
    known = np.ones(num_classes, bool) if np.ndim(true) == 2 else (said + there) > 0
    return Rates(*(float(np.mean(rate[known])) for rate in _rates(hits, said, there)))


def micro(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> Rates:
    """Rates of all decisions together; for single labels all three are the accuracy."""
    sums = (np.sum(counts, keepdims=True) for counts in _counts(predicted, true, num_classes))
    return Rates(*(float(rate[0]) for rate in _rates(*sums)))


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """The correlation of two labellings of any number of classes (Gorodkin 2004), 0 where one is constant."""
    predicted, true = _same(predicted, true)
    num_classes = int(max(predicted.max(), true.max())) + 1
    counts = confusion(predicted, true, num_classes).astype(np.float64)
    total, right = counts.sum(), np.trace(counts)
    there, said = counts.sum(axis=1), counts.sum(axis=0)
    covariance = right * total - said @ there
    spread = (total**2 - said @ said) * (total**2 - there @ there)
    return float(covariance / np.sqrt(spread)) if spread else 0.0


def _counts(
    predicted: np.ndarray, true: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each class, how often it was rightly said, said, and true; float64 [C]."""
    predicted, true = _same(predicted, true)
    if true.ndim == 2:
        predicted, true = predicted.astype(bool), true.astype(bool)
        both = predicted & true
        return tuple(labels.sum(axis=0).astype(np.float64) for labels in (both, predicted, true))
    table = confusion(predicted, true, num_classes).astype(np.float64)
    return np.diagonal(table), table.sum(axis=0), table.sum(axis=1)


def _rates(hits: np.ndarray, said: np.ndarray, there: np.ndarray) -> Rates:
    return Rates(_share(hits, said), _share(hits, there), _share(2 * hits, said + there))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def _same(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = np.asarray(predicted), np.asarray(true)
    if predicted.shape != true.shape or not len(true):
        raise ValueError(f"predictions {predicted.shape} and labels {true.shape} must match and not be empty")
    return predicted, true
