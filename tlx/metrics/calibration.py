"""Whether the probability of a prediction is how often it is right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BINS = 15


class Reliability(NamedTuple):
    """Examples in bins of equal width by the probability of their predicted label: (0, 1/15], (1/15, 2/15] ..."""

    counts: np.ndarray
    """int [15], examples of each bin."""
    probability: np.ndarray
    """float64 [15], mean probability of a bin; 0 where it is empty."""
    accuracy: np.ndarray
    """float64 [15], fraction of a bin's labels that are right; 0 where it is empty."""


def reliability(probabilities: Sequence[float], correct: np.ndarray) -> Reliability:
    """Compute the reliability diagram of Guo et al. 2017, section 2; a probability of 0 is in the first bin.

    Args:
        probabilities: Probability of each predicted label, 0 to 1, N of them.
        correct: bool [N], whether the label is right.

    Returns:
        The bins.

    Raises:
        ValueError: There is no example.
    """
    values = np.asarray(probabilities, np.float64)
    if not len(values):
        raise ValueError("there is no example")
    index = np.clip(np.ceil(values * _BINS).astype(int) - 1, 0, _BINS - 1)
    counts = np.bincount(index, minlength=_BINS)
    sizes = np.maximum(counts, 1)
    return Reliability(
        counts,
        np.bincount(index, weights=values, minlength=_BINS) / sizes,
        np.bincount(index, weights=np.asarray(correct, np.float64), minlength=_BINS) / sizes,
    )


def expected_calibration_error(probabilities: Sequence[float], correct: np.ndarray) -> float:
    """Compute the expected calibration error of Guo et al. 2017, eq. 3, over 15 bins of equal width.

    Args:
        probabilities: Probability of each predicted label, 0 to 1, N of them.
        correct: bool [N], whether the label is right.

    Returns:
        The mean over examples of |accuracy of its bin - mean probability of its bin|, 0 to 1.

    Raises:
        ValueError: There is no example.
    """
    bins = reliability(probabilities, correct)
    gaps = np.abs(bins.accuracy - bins.probability)
    return float((gaps * bins.counts).sum() / bins.counts.sum())
