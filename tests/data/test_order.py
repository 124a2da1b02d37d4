"""Permutations are permutations, mixtures keep their shares, and both stay what they are for ever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.base.errors import ConfigError
from tlx.data.order import Permutation, SourceMixture, row_generator

pytestmark = pytest.mark.jax_versions


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_a_permutation_has_every_index_once(size, key):
    permutation = Permutation(size, key)
    assert sorted(permutation(i) for i in range(size)) == list(range(size))


def test_permutations_look_random():
    size, count = 300, 200
    orders = np.array([[Permutation(size, key)(i) for i in range(size)] for key in range(count)])
    fixed = (orders == np.arange(size)).sum(axis=1)
    assert abs(fixed.mean() - 1) < 0.3  # a random permutation has one fixed point on average
    follows = (np.diff(orders, axis=1) == 1).sum(axis=1)
    assert abs(follows.mean() - 1) < 0.3
    firsts = orders[:, 0]
    assert abs(firsts.mean() / size - 0.5) < 0.08 and len(set(firsts)) > 120


def test_a_permutation_of_a_huge_size_costs_nothing():
    permutation = Permutation(10**15, 7)
    images = [permutation(i) for i in range(1000)]
    assert len(set(images)) == 1000 and max(images) > 9 * 10**14 and min(images) < 10**14


def test_the_order_never_changes():
    # A run of an older tlx goes on with the batches it would have had: these values must stay.
    assert [Permutation(10, 0)(i) for i in range(10)] == [9, 0, 5, 7, 4, 8, 2, 1, 6, 3]
    raw = row_generator(1, "train", 5).bit_generator.random_raw(2).tolist()
    assert raw == [12792690815173653204, 2618639314590765734]
    assert [SourceMixture([2, 1, 1]).source(r)[0] for r in range(8)] == [0, 1, 2, 0, 0, 1, 2, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_a_mixture_keeps_its_shares_in_any_stretch(weights):
    mixture = SourceMixture(weights)
    shares = np.array(weights) / sum(weights)
    counts = np.zeros(len(weights), int)
    worst = 0.0
    for row in range(400):
        source, before = mixture.source(row)
        assert before == counts[source]
        assert [mixture.count(j, row) for j in range(len(weights))] == counts.tolist()
        counts[source] += 1
        worst = max(worst, np.abs(counts - shares * (row + 1)).max())
    assert worst < 2 if len(weights) > 2 else worst <= 1


def test_a_mixture_of_uneven_weights_over_its_period():
    weights = np.array([0.6180339, 0.2, 0.0101, 0.1718661])
    mixture = SourceMixture(weights)
    counts = np.bincount([mixture.source(row)[0] for row in range(20_000)], minlength=4)
    np.testing.assert_allclose(counts / 20_000, weights / weights.sum(), atol=1e-4)
    assert mixture.source(123_456_789)[1] == mixture.count(mixture.source(123_456_789)[0], 123_456_789)


def test_a_weight_that_would_never_be_read_is_an_error():
    with pytest.raises(ConfigError, match=r"mixture\[1\].weight = 1e-06 is less than 1/10000"):
        SourceMixture([1.0, 1e-6])
