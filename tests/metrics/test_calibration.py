"""The expected calibration error by a loop over its bins, and where it is 0."""

import numpy as np
import pytest

from tlx.metrics.calibration import expected_calibration_error, reliability


def by_loop(probabilities, correct, bins=15):
    total = 0.0
    for m in range(bins):
        inside = (probabilities > m / bins) & (probabilities <= (m + 1) / bins)
        if inside.any():
            total += inside.sum() * abs(correct[inside].mean() - probabilities[inside].mean())
    return total / len(probabilities)


def test_it_is_the_papers_mean_over_bins():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.2, 1.0, 500)
    correct = rng.random(500) < probabilities**2
    found = expected_calibration_error(probabilities.tolist(), correct)
    assert found == pytest.approx(by_loop(probabilities, correct)) and found > 0.05
    # The picture shows the same bins.
    bins = reliability([0.0, 1 / 15, 0.08, 0.08, 1.0], np.array([True, False, True, False, True]))
    assert bins.counts.tolist() == [2, 2, *[0] * 12, 1]
    np.testing.assert_allclose(bins.accuracy[[0, 1, 5, 14]], [0.5, 0.5, 0, 1])
    np.testing.assert_allclose(bins.probability[[0, 1, 5, 14]], [1 / 30, 0.08, 0, 1])


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    assert expected_calibration_error([1.0, 1.0], np.array([True, True])) == 0.0
    assert expected_calibration_error([1.0, 0.0], np.array([False, False])) == 0.5
    assert expected_calibration_error([0.75] * 4, np.array([True, True, True, False])) == 0.0
    with pytest.raises(ValueError):
        expected_calibration_error([], np.zeros(0, bool))
