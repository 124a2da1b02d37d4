"""Coreference scores against the published examples, brute force and properties; GAP's scores by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzzed
from tlx.metrics import coreference, gap

# Bagga and Baldwin 1998, also Luo 2005, figure 1: twelve mentions of three entities, two of which a system joins.
TRUE = [range(1, 6), range(6, 8), range(8, 13)]
JOINED_SMALL = [range(1, 6), range(6, 13)]
JOINED_LARGE = [[*range(1, 6), *range(8, 13)], range(6, 8)]


def scores(predicted, true):
    return coreference.figures(coreference.document_counts(predicted, true)[None])


def test_the_published_examples():
    small, large = scores(JOINED_SMALL, TRUE), scores(JOINED_LARGE, TRUE)
    for found in (small, large):
        assert found["muc_precision"] == pytest.approx(9 / 10) and found["muc_recall"] == 1.0
        assert found["b3_recall"] == 1.0
    assert small["b3_precision"] == pytest.approx((5 + 4 / 7 + 25 / 7) / 12)
    assert large["b3_precision"] == pytest.approx((10 / 2 + 2) / 12)
    # Luo 2005, table 1: 0.733 and 0.667.
    assert small["ceaf_precision"] == pytest.approx((1 + 10 / 12) / 2)
    assert small["ceaf_recall"] == pytest.approx((1 + 10 / 12) / 3)
    assert small["ceaf_f1"] == pytest.approx(0.7333, abs=1e-4)
    assert large["ceaf_f1"] == pytest.approx(0.6667, abs=1e-4)
    assert small["conll_f1"] == pytest.approx(
        np.mean([small[f"{name}_f1"] for name in ("muc", "b3", "ceaf")])
    )
    # Vilain et al. 1995: of three links one is missing.
    halves = scores([["A", "B"], ["C", "D"]], [["A", "B", "C", "D"]])
    assert (halves["muc_precision"], halves["muc_recall"]) == (1.0, pytest.approx(2 / 3))


def test_mentions_that_are_on_one_side_alone():
    """Key {a b c} {d e}, response {a b x} {f g}: one link of three, two mentions of five, one pair of clusters."""
    found = scores([["a", "b", "x"], ["f", "g"]], [["a", "b", "c"], ["d", "e"]])
    assert found["muc_precision"] == pytest.approx(1 / 3) and found["muc_recall"] == pytest.approx(1 / 3)
    assert found["b3_precision"] == found["b3_recall"] == pytest.approx((2 / 3 + 2 / 3) / 5)
    assert found["ceaf_f1"] == pytest.approx(2 * 2 / 6 / 2)
    nothing = scores([], [["a", "b"]])
    assert set(nothing.values()) == {0.0}
    assert set(scores([], []).values()) == {0.0}


def test_ratios_are_of_sums_over_documents():
    parts = [coreference.document_counts(JOINED_SMALL, TRUE), coreference.document_counts([], [["a", "b"]])]
    found = coreference.figures(np.stack(parts))
    assert found["muc_recall"] == pytest.approx(9 / 10) and found["muc_precision"] == pytest.approx(9 / 10)
    assert found["b3_recall"] == pytest.approx(12 / 14)
    assert found["ceaf_recall"] == pytest.approx((1 + 10 / 12) / 4)


@st.composite
def clusterings(draw):
    mentions = draw(st.lists(st.integers(0, 9), unique=True, max_size=8))
    labels = draw(st.lists(st.integers(0, 3), min_size=len(mentions), max_size=len(mentions)))
    found = [[m for m, label in zip(mentions, labels, strict=True) if label == k] for k in range(4)]
    return [cluster for cluster in found if cluster]


def brute_force(predicted, true):
    """Links as components of a graph, mentions one by one, and all matchings."""

    def links(clusters, others):
        owner = {mention: index for index, other in enumerate(others) for mention in other}
        parts = [len({owner.get(m, f"alone {m}") for m in cluster}) for cluster in clusters]
        return sum(len(c) - p for c, p in zip(clusters, parts, strict=True)), sum(
            len(c) - 1 for c in clusters
        )

    def mentions(clusters, others):
        total = 0.0
        for cluster in clusters:
            for mention in cluster:
                other = next((other for other in others if mention in other), ())
                total += len(set(cluster) & set(other)) / len(cluster)
        return total, sum(map(len, clusters))

    few, many = sorted((predicted, true), key=len)
    best = max(
        sum(2 * len(set(a) & set(b)) / (len(a) + len(b)) for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )
    return [
        [*links(predicted, true), *links(true, predicted)],
        [*mentions(predicted, true), *mentions(true, predicted)],
        [best, len(predicted), best, len(true)],
    ]


@fuzzed(100)
@given(predicted=clusterings(), true=clusterings())
def test_the_counts_are_those_of_brute_force(predicted, true):
    counts = coreference.document_counts(predicted, true)
    np.testing.assert_allclose(counts, brute_force(predicted, true), atol=1e-12)
    found = coreference.figures(counts[None])
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())
    swapped = scores(true, predicted)
    for name in coreference.METRICS:
        assert swapped[f"{name}_precision"] == pytest.approx(found[f"{name}_recall"])
    perfect = scores(true, [list(reversed(cluster)) for cluster in reversed(true)])
    if any(len(cluster) > 1 for cluster in true):
        assert perfect["conll_f1"] == pytest.approx(1.0)


def test_scores_of_pronouns_by_hand():
    """Two of he, two of she: right and wrong; right; missed; right with a wrong one beside it."""
    true = np.array([[1, 0], [0, 1], [1, 0], [0, 0]])
    predicted = np.array([[1, 1], [0, 1], [0, 0], [1, 0]])
    genders = [gap.gender_of(word) for word in ("He", "her", "his", "hers")]
    assert genders == ["masculine", "feminine", "masculine", "feminine"] and gap.gender_of("it") == ""
    found = gap.gap_figures(gap.gap_counts(predicted, true), genders)
    # 2 right, 2 wrong, 1 missed; of he 1, 1, 1; of she 1, 1, 0.
    assert found["gap_f1"] == pytest.approx(4 / 7)
    assert found["gap_f1_masculine"] == pytest.approx(1 / 2)
    assert found["gap_f1_feminine"] == pytest.approx(2 / 3)
    assert found["gap_bias"] == pytest.approx(4 / 3)
    chance = gap.gap_counts(gap.random_choices(4), true)
    assert gap.f1_of(chance) == pytest.approx(2 * 1.5 / (2 * 1.5 + 2.5 + 1.5))
    nearest = gap.nearest_choices(
        np.array([[10, 12], [10, 12]]), np.array([[[0, 3], [5, 9]], [[15, 17], [0, 4]]])
    )
    assert nearest.tolist() == [[False, True], [True, False]]
