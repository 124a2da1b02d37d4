"""Permutations are permutations, mixtures keep their shares, and both stay what they are for ever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.base.errors import ConfigError
from tlx.data.order import Permutation, ScheduledMixture, SourceMixture, hash64, row_generator

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
    # The keys that numpy makes of these lists, in which integers from 2^63 on are rounded.
    streams = [hash64("rows", seed, "train") for seed in range(6)]
    assert {stream >> 63 for stream in streams} == {0, 1}
    for seed, stream in enumerate(streams):
        key = row_generator(seed, "train", 3).bit_generator.state["state"]["key"]
        assert key.tolist() == np.random.Philox(key=[stream, 3]).state["state"]["key"].tolist()
    assert [SourceMixture([2, 1, 1]).source(r)[0] for r in range(8)] == [0, 1, 2, 0, 0, 1, 2, 0]


@pytest.mark.slow
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
    with pytest.raises(ConfigError, match=r"mixture\[1\].weight = 1e-07 is less than 1/1000000"):
        SourceMixture([1.0, 1e-7])


def test_a_source_of_a_millionth_is_read_once_in_a_million_rows():
    weights = np.array([0.7, 0.299994, 5e-6, 1e-6])
    mixture = SourceMixture(weights)
    assert mixture.quotas == [700_000, 299_994, 5, 1]
    earlier = [[mixture.count(source, row) for source in range(4)] for row in range(0, 2_000_001, 7_919)]
    ideal = np.arange(0, 2_000_001, 7_919)[:, None] * weights
    assert np.abs(np.array(earlier) - ideal).max() < 2.5
    for row in (0, 99_999, 500_000, 1_499_999):
        source, before = mixture.source(row)
        assert before == mixture.count(source, row) and mixture.count(source, row + 1) == before + 1


def test_stages_of_a_mixture_follow_one_another():
    """Each stage is the mixture of its weights, and its rows go on in each source where the last ones ended."""
    weights = [[1.0, 1.0, 2.0], [1.0, 8.0, 1.0], [3.0, 1.0, 1e-5]]
    scheduled = ScheduledMixture([0, 30, 47], weights)
    counts = [0, 0, 0]
    for row in range(120):
        stage = int(np.searchsorted([0, 30, 47], row, "right")) - 1
        source, earlier = scheduled.source(row)
        assert source == SourceMixture(weights[stage]).source(row - [0, 30, 47][stage])[0]
        assert earlier == counts[source]
        counts[source] += 1
    assert scheduled.count(1, 10) == SourceMixture(weights[1]).count(1, 10)
