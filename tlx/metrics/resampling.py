"""How sure a score is, and a difference of two: the bootstrap over examples (Efron 1979; Koehn 2004).

Over runs with other seeds it is Student's t.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

# A score of the examples with these numbers (some of them several times).
Statistic = Callable[[np.ndarray], float]


class Interval(NamedTuple):
    """A score of all examples, and between what it lies."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """How much the second system scores above the first. `p`: of a difference this large where there is
    none, two-sided, by the share of resamples in which the sign is another."""

    difference: Interval
    p: float


def interval(
    statistic: Statistic, size: int, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The percentile interval of a score over `size` examples."""
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
    """Two systems on the same `size` examples, resampled together."""
    everything = np.arange(size)
    draws = np.diff(_draws([first, second], size, resamples, seed), axis=1)[:, 0]
    found = _interval(second(everything) - first(everything), draws, confidence)
    tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return Comparison(found, min(1.0, 2 * (tail + 1) / (resamples + 1)))


def of_runs(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of a score over runs that differ in their seed, and Student's interval of it; of a single run,
    which says nothing of that, the score itself."""
    values = np.asarray(scores, np.float64)
    if len(values) < 2:
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    half = scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * scipy.stats.sem(values)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def mean_of(scores: np.ndarray) -> Statistic:
    """The statistic that is the mean of the examples' own scores [N]."""
    scores = np.asarray(scores, np.float64)
    return lambda chosen: float(scores[chosen].mean())


def _draws(statistics: list[Statistic], size: int, resamples: int, seed: int) -> np.ndarray:
    """[resamples, statistics]: each of the same examples, drawn with replacement."""
    rng = np.random.default_rng(seed)
    chosen = (rng.integers(size, size=size) for _ in range(resamples))
    return np.array([[statistic(rows) for statistic in statistics] for rows in chosen])


def _interval(value: float, draws: np.ndarray, confidence: float) -> Interval:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))
