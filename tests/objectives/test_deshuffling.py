"""Deshuffling: the same tokens, in an order that says nothing."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.rows import decoder, encoder, targets, window
from tlx.objectives import deshuffling
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(400)


def spec(length: int) -> ObjectiveSpec:
    return ObjectiveSpec(deshuffling.Deshuffling(), length, VOCAB)


@settings(deadline=None)
@given(st.lists(st.integers(7, 299), min_size=1, max_size=40), st.integers(0, 2**32))
def test_targets_are_the_text_and_inputs_its_tokens(text, seed):
    row = deshuffling.OBJECTIVE.example(np.random.default_rng(seed), window(np.array(text), 40), spec(41))
    assert targets(row) == [*text, VOCAB.eos] and decoder(row) == [VOCAB.bos, *text]
    assert encoder(row)[-1] == VOCAB.eos and sorted(encoder(row)[:-1]) == sorted(text)


def test_orders_are_uniform():
    """All 24 of 4 tokens: the input's order has no information about the text's."""
    rng, text = np.random.default_rng(0), window(np.arange(20, 24))
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(20_000):
        order = tuple(encoder(deshuffling.OBJECTIVE.example(rng, text, spec(5))))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24 and stats.chisquare(list(counts.values())).pvalue > 1e-3
