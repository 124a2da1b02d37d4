"""Prefix LM: where the prefix ends, and what is predicted."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.rows import window
from tlx.data.window import Window
from tlx.objectives import clm, prefix_lm
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(400)
DRAWS = 20_000


def spec(length: int) -> ObjectiveSpec:
    return ObjectiveSpec(prefix_lm.PrefixLM(), length, VOCAB)


def test_prefixes_are_uniform_from_one_to_all_but_one():
    """T5's split of L tokens: 1..L-1, each as often; never none, never all."""
    rng, this = np.random.default_rng(0), spec(9)
    text = window(np.arange(20, 30))
    counts = np.zeros(10, int)
    for _ in range(DRAWS):
        row = prefix_lm.OBJECTIVE.example(rng, text, this)
        counts[row["prefix"].sum()] += 1
        assert row["prefix"].sum() + row["weights"].sum() == 10
    assert counts[0] == 0 and stats.chisquare(counts[1:]).pvalue > 1e-3


def test_each_document_has_its_own_prefix():
    segments = np.repeat([1, 2, 3, 0], [7, 5, 6, 3]).astype(np.int32)
    positions = np.concatenate([np.arange(7), np.arange(5), np.arange(6), np.zeros(3)]).astype(np.int32)
    text = Window(np.where(segments > 0, np.arange(21) + 20, 0).astype(np.int32), segments, positions)
    rng, this, pairs = np.random.default_rng(1), spec(20), set()
    for _ in range(500):
        row = prefix_lm.OBJECTIVE.example(rng, text, this)
        sizes = [row["prefix"][row["segments"] == i].sum() for i in (1, 2, 3)]
        pairs.add((sizes[0], sizes[1]))
        assert not row["prefix"][-3:].any() and not row["weights"][-3:].any()
        for i in (1, 2, 3):
            here = np.flatnonzero(row["segments"] == i)
            inside = row["prefix"][here]
            assert inside[0] and np.all(np.diff(inside) <= 0)
            # The last of the prefix predicts the first token after it.
            assert np.array_equal(row["weights"][here] > 0, np.arange(len(here)) >= inside.sum() - 1)
    assert len(pairs) == 6 * 5  # six inputs of the first document, bos and four of the second


@settings(deadline=None)
@given(st.lists(st.integers(7, 299), min_size=2, max_size=40), st.integers(0, 2**32))
def test_prefix_and_targets_are_the_text(text, seed):
    this = spec(40)
    row = prefix_lm.OBJECTIVE.example(np.random.default_rng(seed), window(np.array(text), 41), this)
    count = int(row["prefix"].sum())
    assert row["tokens"][:count].tolist() + row["targets"][row["weights"] > 0].tolist() == text
    plain = clm.OBJECTIVE.example(None, window(np.array(text), 41), this)
    for key in ("tokens", "segments", "positions"):
        assert np.array_equal(row[key], plain[key])
