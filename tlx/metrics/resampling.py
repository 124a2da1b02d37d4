"""Confidence intervals of scores and differences: the bootstrap over examples (Efron 1979; Koehn 2004).

Over runs that differ in their seed it is Student's t.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# The score of the examples with these indices, int[N]; an index may occur several times.
Statistic = Callable[[np.ndarray], float]


class Interval(NamedTuple):
    """A score with its confidence interval."""

    value: float
    """The score of all examples."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


class Comparison(NamedTuple):
    """Difference of the scores of two systems."""

    difference: Interval
    """Score of the second less that of the first."""
    p: float
    """Two-sided p-value of the difference: twice the fraction of resamples in which its sign is the other."""


def interval(
    statistic: Statistic, size: int, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Compute the percentile bootstrap interval of a score.

    Args:
        statistic: The score as a function of example indices.
        size: Number of examples.
        confidence: Coverage of the interval, 0 to 1.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling.

    Returns:
        The score of all examples with its interval.
    """
    draws = _draws([statistic], size, resamples, seed)[:, 0]
    return _interval(statistic(np.arange(size)), draws, confidence)


def compare(
    first: Statistic,
    second: Statistic,
    size: int,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same examples by the paired bootstrap.

    Args:
        first: Score of the first system as a function of example indices.
        second: Score of the second system.
        size: Number of examples.
        confidence: Coverage of the interval, 0 to 1.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling.

    Returns:
        The difference, second less first, with its interval and p-value.
    """
    indices = np.arange(size)
    draws = np.diff(_draws([first, second], size, resamples, seed), axis=1)[:, 0]
    difference = _interval(second(indices) - first(indices), draws, confidence)
    tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return Comparison(difference, min(1.0, 2 * (tail + 1) / (resamples + 1)))


def of_runs(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean score over runs of other seeds with Student's interval; of one run, its score alone."""
    values = np.asarray(scores, np.float64)
    if len(values) < 2:
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    # Here: imported at the top, it would be a third of what every start of tlx costs.
    import scipy.stats

    half = scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * scipy.stats.sem(values)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def mean_of(scores: np.ndarray) -> Statistic:
    """Return the statistic that averages the examples' own scores [N]."""
    scores = np.asarray(scores, np.float64)
    return lambda indices: float(scores[indices].mean())


def _draws(statistics: list[Statistic], size: int, resamples: int, seed: int) -> np.ndarray:
    """Return [resamples, statistics]: all statistics of the same examples, drawn with replacement."""
    rng = np.random.default_rng(seed)
    samples = (rng.integers(size, size=size) for _ in range(resamples))
    return np.array([[statistic(indices) for statistic in statistics] for indices in samples])


def _interval(value: float, draws: np.ndarray, confidence: float) -> Interval:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))
