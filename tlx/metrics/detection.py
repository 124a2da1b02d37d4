"""Detection of examples that are unlike those of training, from one number for each: area under ROC, and FPR95.

The baseline score is the probability of the predicted class (Hendrycks and Gimpel 2017).
"""

import numpy as np


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Compute the probability that an example of `inside` has a higher score than one of `outside`.

    Ties count half (Mann and Whitney 1947). Raises ValueError where one of the two is empty.
    """
    if not len(inside) or not len(outside):
        raise ValueError("both kinds of examples are needed")
    # Here: imported at the top, it would be a third of what every start of tlx costs.
    import scipy.stats

    ranks = scipy.stats.rankdata(np.concatenate([inside, outside]))
    excess = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(excess / (len(inside) * len(outside)))


def false_positive_rate(inside: np.ndarray, outside: np.ndarray, recall: float = 0.95) -> float:
    """Compute the fraction of `outside` that passes where at least `recall` of `inside` does.

    Args:
        inside: Scores of examples like those of training, higher is surer.
        outside: Scores of the others.
        recall: Fraction of `inside` that must pass, above 0 and at most 1.

    Returns:
        0 to 1.

    Raises:
        ValueError: One of the two is empty.
    """
    if not len(inside) or not len(outside):
        raise ValueError("both kinds of examples are needed")
    # The highest score that so many of them reach.
    needed = int(np.ceil(recall * len(inside)))
    threshold = np.sort(inside)[len(inside) - needed]
    return float(np.mean(np.asarray(outside) >= threshold))
