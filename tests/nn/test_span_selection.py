"""Spans of which no two cross, against a loop over all of them in the order of their scores."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzzed
from tlx.nn.span_selection import non_crossing

LENGTH = 12
WIDTHS = 5
selected = jax.jit(non_crossing)


def crosses(one, other):
    (first, last), (begin, end) = sorted((one, other))
    return first < begin <= last < end


def greedy(scores, allowed):
    """Spans (first, last) in the order in which they are taken."""
    taken = []
    order = np.argsort(-np.where(allowed, scores, -np.inf).ravel(), kind="stable")
    for first, width in (divmod(int(index), scores.shape[1]) for index in order):
        span = (first, first + width)
        if allowed[first, width] and not any(crosses(span, other) for other in taken):
            taken.append(span)
    return taken


@fuzzed(100)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 20, 10**6]), density=st.floats(0, 1))
def test_they_are_those_of_the_loop(seed, levels, density):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, size=(LENGTH, WIDTHS)).astype(np.float32)
    inside = np.arange(LENGTH)[:, None] + np.arange(WIDTHS) < LENGTH
    allowed = (rng.random((LENGTH, WIDTHS)) < density) & inside
    priority = np.asarray(selected(scores, allowed))
    order = sorted(zip(*np.nonzero(priority), strict=True), key=lambda span: -priority[span])
    assert [(int(first), int(first + width)) for first, width in order] == greedy(scores, allowed)
