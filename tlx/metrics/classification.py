"""Classification metrics of single labels, int[N], or of label sets, bool[N, C]."""

from typing import NamedTuple

import numpy as np


class Rates(NamedTuple):
    """Precision, recall and F1: floats, or arrays [C] with one value for each class."""

    precision: float | np.ndarray
    """Correct predictions of a class over all predictions of it; 0 where there are none."""
    recall: float | np.ndarray
    """Correct predictions of a class over all examples of it; 0 where there are none."""
    f1: float | np.ndarray
    """Harmonic mean of precision and recall; 0 where both are."""


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the fraction of examples whose label, or whose whole label set, is predicted."""
    predicted, true = _checked(predicted, true)
    return float(np.mean((predicted == true).reshape(len(true), -1).all(axis=1)))


def confusion(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the examples of each true class by predicted class.

    Args:
        predicted: Predicted labels, int[N].
        true: True labels, int[N].
        num_classes: C, the number of classes.

    Returns:
        int64[C, C]; rows are true classes, columns predicted ones.

    Raises:
        ValueError: The shapes differ, or there is no example.
    """
    predicted, true = _checked(predicted, true)
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def per_class(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> Rates:
    """Compute precision, recall and F1 of each class.

    Args:
        predicted: Predicted labels, int[N] or bool[N, C].
        true: True labels, of the same shape.
        num_classes: C, the number of classes.

    Returns:
        The rates, [C] each.

    Raises:
        ValueError: The shapes differ, or there is no example.
    """
    return _rates(*_counts(predicted, true, num_classes))


def macro(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> Rates:
    """Average precision, recall and F1 over the classes.

    Classes that are neither true nor predicted anywhere are left out, unless the labels are sets
    (scikit-learn's rule).

    Args:
        predicted: Predicted labels, int[N] or bool[N, C].
        true: True labels, of the same shape.
        num_classes: C, the number of classes.

    Returns:
        The unweighted means over classes.

    Raises:
        ValueError: The shapes differ, or there is no example.
    """
    num_correct, num_predicted, num_true = _counts(predicted, true, num_classes)
    if np.ndim(true) == 2:
        counted = np.ones(num_classes, bool)
    else:
        counted = (num_predicted + num_true) > 0
    rates = _rates(num_correct, num_predicted, num_true)
    return Rates(*(float(np.mean(np.asarray(rate)[counted])) for rate in rates))


def micro(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> Rates:
    """Compute precision, recall and F1 of all decisions together.

    Args:
        predicted: Predicted labels, int[N] or bool[N, C].
        true: True labels, of the same shape.
        num_classes: C, the number of classes.

    Returns:
        The rates; for single labels all three are the accuracy.

    Raises:
        ValueError: The shapes differ, or there is no example.
    """
    sums = [np.sum(counts, keepdims=True) for counts in _counts(predicted, true, num_classes)]
    return Rates(*(float(np.asarray(rate)[0]) for rate in _rates(*sums)))


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the multi-class Matthews correlation (Gorodkin 2004); 0 where one labelling is constant."""
    predicted, true = _checked(predicted, true)
    num_classes = int(max(predicted.max(), true.max())) + 1
    counts = confusion(predicted, true, num_classes).astype(np.float64)
    total = counts.sum()
    num_correct = np.trace(counts)
    num_true = counts.sum(axis=1)
    num_predicted = counts.sum(axis=0)
    covariance = num_correct * total - num_predicted @ num_true
    spread = (total**2 - num_predicted @ num_predicted) * (total**2 - num_true @ num_true)
    return float(covariance / np.sqrt(spread)) if spread else 0.0


def _counts(
    predicted: np.ndarray, true: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how often each class is correctly predicted, predicted, and true; float64[C] each."""
    predicted, true = _checked(predicted, true)
    if true.ndim == 2:
        predicted = predicted.astype(bool)
        true = true.astype(bool)
        num_correct = (predicted & true).sum(axis=0).astype(np.float64)
        return num_correct, predicted.sum(axis=0).astype(np.float64), true.sum(axis=0).astype(np.float64)
    table = confusion(predicted, true, num_classes).astype(np.float64)
    return np.diagonal(table), table.sum(axis=0), table.sum(axis=1)


def _rates(num_correct: np.ndarray, num_predicted: np.ndarray, num_true: np.ndarray) -> Rates:
    return Rates(
        precision=_ratio(num_correct, num_predicted),
        recall=_ratio(num_correct, num_true),
        f1=_ratio(2 * num_correct, num_predicted + num_true),
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; 0 where the denominator is 0."""
    zeros = np.zeros(np.shape(numerator))
    return np.divide(numerator, denominator, out=zeros, where=np.asarray(denominator) > 0)


def _checked(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays; ValueError where their shapes differ or they are empty."""
    predicted = np.asarray(predicted)
    true = np.asarray(true)
    if predicted.shape != true.shape or not len(true):
        raise ValueError(f"predictions {predicted.shape} and labels {true.shape} must match and not be empty")
    return predicted, true
