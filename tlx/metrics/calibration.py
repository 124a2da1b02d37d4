"""Whether the probability of a prediction is how often it is right."""

from collections.abc import Sequence

import numpy as np

_BINS = 15


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
    values = np.asarray(probabilities, np.float64)
    if not len(values):
        raise ValueError("there is no example")
    # (0, 1/15], (1/15, 2/15] ... as in the paper; 0 itself is in the first.
    index = np.clip(np.ceil(values * _BINS).astype(int) - 1, 0, _BINS - 1)
    surplus = np.bincount(index, weights=np.asarray(correct, np.float64) - values, minlength=_BINS)
    return float(np.abs(surplus).sum() / len(values))
