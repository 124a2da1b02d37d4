"""How predicted numbers go with true ones."""

import numpy as np
import scipy.stats


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Linear correlation of two rows of numbers; 0 where one of them is constant."""
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return 0.0
    return float(np.corrcoef(np.asarray(predicted, np.float64), np.asarray(true, np.float64))[0, 1])


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's correlation of the ranks, ties sharing the mean of theirs."""
    return pearson(scipy.stats.rankdata(predicted), scipy.stats.rankdata(true))
