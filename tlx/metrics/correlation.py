"""Correlations of predicted with true numbers."""

import numpy as np


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the linear correlation of two arrays [N]; 0 where one of them is constant."""
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return 0.0
    return float(np.corrcoef(np.asarray(predicted, np.float64), np.asarray(true, np.float64))[0, 1])


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the rank correlation of two arrays [N]; ties share their mean rank."""
    # Here: imported at the top, it would be a third of what every start of tlx costs.
    import scipy.stats

    return pearson(scipy.stats.rankdata(predicted), scipy.stats.rankdata(true))
