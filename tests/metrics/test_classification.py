"""Metrics of classes against scikit-learn on random labels."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from tlx.metrics import classification, correlation


def labels(seed, classes, shape=(300,), skew=False):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.5 if skew else 5.0)) * 0.9 + 0.1 / classes
    true = rng.choice(classes, shape, p=p)
    guess = rng.choice(classes, shape, p=p)
    return np.where(rng.random(shape) < 0.6, true, guess), true


@pytest.mark.parametrize("classes", [2, 3, 17])
@pytest.mark.parametrize("skew", [False, True])
def test_single_labels_agree_with_scikit_learn(classes, skew):
    for seed in range(5):
        predicted, true = labels(seed, classes, skew=skew)
        assert classification.accuracy(predicted, true) == sklearn.metrics.accuracy_score(true, predicted)
        table = sklearn.metrics.confusion_matrix(true, predicted, labels=range(classes))
        np.testing.assert_array_equal(classification.confusion(predicted, true, classes), table)
        expected = sklearn.metrics.matthews_corrcoef(true, predicted)
        assert classification.matthews(predicted, true) == pytest.approx(expected, abs=1e-12)
        for average in ("micro", "macro"):
            _compare_rates(getattr(classification, average), predicted, true, classes, average)
        theirs = sklearn.metrics.precision_recall_fscore_support(
            true, predicted, labels=range(classes), zero_division=0
        )
        np.testing.assert_allclose(classification.per_class(predicted, true, classes), theirs[:3])


def test_sets_of_labels_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    true = rng.random((150, 6)) < 0.3
    true[:, 5] = False  # never there
    predicted = true ^ (rng.random(true.shape) < 0.2)
    predicted[:, 4] = False  # never said
    assert classification.accuracy(predicted, true) == sklearn.metrics.accuracy_score(true, predicted)
    for average in ("micro", "macro"):
        _compare_rates(getattr(classification, average), predicted, true, 6, average)


def test_a_constant_labelling_has_no_correlation():
    assert classification.matthews(np.zeros(4, int), np.array([0, 1, 0, 1])) == 0.0
    assert correlation.pearson([1, 1, 1], [1, 2, 3]) == correlation.spearman([1, 2, 3], [5, 5, 5]) == 0.0


def test_correlations_agree_with_scipy():
    rng = np.random.default_rng(1)
    for _ in range(5):
        x = rng.integers(0, 20, 100)  # with ties
        y = x + rng.normal(0, 5, 100)
        assert correlation.pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
        assert correlation.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"\(2,\) and labels \(3,\)"):
        classification.accuracy(np.zeros(2), np.zeros(3))


def _compare_rates(ours, predicted, true, classes, average):
    theirs = sklearn.metrics.precision_recall_fscore_support(
        true, predicted, average=average, zero_division=0
    )
    np.testing.assert_allclose(ours(predicted, true, classes), theirs[:3], err_msg=average)
    if true.ndim == 1:  # a class that is nowhere does not count
        np.testing.assert_allclose(ours(predicted, true, classes + 1), theirs[:3], err_msg=average)
