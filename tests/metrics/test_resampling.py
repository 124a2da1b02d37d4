"""Intervals and comparisons by resampling, SSA, and the picture."""

import matplotlib.image
import numpy as np
import pytest
import scipy.stats

from tlx.metrics.picture import draw_confusion
from tlx.metrics.resampling import compare, interval, mean_of
from tlx.metrics.ssa import ssa


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    scores = np.random.default_rng(0).normal(2.0, 3.0, 400)
    found = interval(mean_of(scores), 400, resamples=2000)
    half = 1.96 * scores.std() / np.sqrt(400)
    assert found.value == pytest.approx(scores.mean())
    assert found.low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(scores.mean() + half, abs=0.1 * half)
    assert interval(mean_of(scores), 400, confidence=0.5).high < found.high


def test_the_interval_is_scipys():
    scores = np.random.default_rng(1).random(50) < 0.3
    ours = interval(mean_of(scores), 50, resamples=4000)
    theirs = scipy.stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=4000, rng=2)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.021)  # one example is .02
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.021)


def test_a_paired_comparison_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 5, 300)  # examples differ more than systems do
    first, second = hard + rng.normal(0, 0.2, 300), hard + 0.2 + rng.normal(0, 0.2, 300)
    apart = [interval(mean_of(scores), 300) for scores in (first, second)]
    assert apart[0].high > apart[1].low
    found = compare(mean_of(first), mean_of(second), 300)
    assert found.p < 0.01 and 0 < found.difference.low < 0.2 < found.difference.high
    assert compare(mean_of(first), mean_of(first), 300).p == 1.0


def test_p_is_as_often_small_as_it_says():
    rng = np.random.default_rng(4)
    rows = (rng.normal(0, 1, (2, 60)) for _ in range(200))
    small = [compare(mean_of(a), mean_of(b), 60, resamples=200).p < 0.1 for a, b in rows]
    assert 0.04 < np.mean(small) < 0.18


def test_ssa_by_hand():
    sensible = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 1]])
    specific = np.array([[1, 1, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]])  # the third is not sensible
    assert ssa(sensible, specific) == (0.75, 0.5, 0.625)
    assert ssa([1, 0], [1, 1]) == (0.5, 0.5, 0.5)
    assert ssa([[1, 0]], [[1, 1]]).sensibleness == 0.0  # half is no majority


def test_the_picture_is_written(tmp_path):
    draw_confusion(np.array([[5, 1], [0, 7]]), ["no", "yes"], tmp_path / "two.png")
    draw_confusion(np.eye(30, dtype=int), [f"class {i}" for i in range(30)], tmp_path / "many.png")
    small, large = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("two", "many"))
    assert large.shape[0] > small.shape[0] > 200
    with pytest.raises(ValueError, match="3 names"):
        draw_confusion(np.eye(2), ["a", "b", "c"], tmp_path / "wrong.png")
