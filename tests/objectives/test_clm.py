"""Causal language modelling: which tokens are inputs and targets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import corpus
from tlx.data.window import Window
from tlx.objectives import clm
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(400)
LENGTH = 16
SPEC = ObjectiveSpec(clm.CLM(), LENGTH, VOCAB)


def packed_windows(lengths: list[int]) -> tuple[list[Window], np.ndarray, np.ndarray]:
    """Windows as clm reads them, all text, and the document of each token (documents count from 0)."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    text = 10 + np.arange(len(document)) % 200
    reads = clm.OBJECTIVE.window_spec(SPEC)
    windows = []
    for start in range(0, len(text) - 1, reads.length - reads.overlap):
        tokens, docs = (x[start : start + reads.length] for x in (text, document))
        segments = docs - docs[0] + 1
        positions = np.arange(len(docs)) - np.searchsorted(docs, docs)
        pad = (0, reads.length - len(tokens))
        windows.append(Window(*(np.pad(x, pad).astype(np.int32) for x in (tokens, segments, positions))))
    return windows, text, document


def test_a_row_by_hand():
    tokens = np.r_[50:67].astype(np.int32)
    segments = np.repeat([1, 2, 3, 0], [5, 8, 2, 2]).astype(np.int32)
    positions = np.r_[0:5, 0:8, 0:2, 0, 0].astype(np.int32)
    row = clm.OBJECTIVE.example(None, Window(tokens, segments, positions), SPEC)
    bos, pad = VOCAB.bos, VOCAB.pad
    assert row["tokens"].tolist() == [50, 51, 52, 53, bos, *range(55, 62), bos, 63, pad, pad]
    assert row["targets"].tolist() == [*range(51, 65), pad, pad]
    assert row["segments"].tolist() == [1] * 4 + [2] * 8 + [3] * 2 + [0] * 2
    assert row["positions"].tolist() == [*range(4), *range(8), 0, 1, 0, 0]
    assert row["weights"].tolist() == [1.0] * 14 + [0.0] * 2


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 1))
def test_every_token_is_a_target_once_and_sees_only_its_document(lengths):
    windows, text, document = packed_windows(lengths)
    rows = [clm.OBJECTIVE.example(None, window, SPEC) for window in windows]
    targets = np.concatenate([row["targets"][row["weights"] > 0] for row in rows])
    assert targets.tolist() == text[1:].tolist()
    inputs = np.concatenate([row["tokens"][row["weights"] > 0] for row in rows])
    starts = document[1:] != document[:-1]
    assert inputs.tolist() == np.where(starts, VOCAB.bos, text[:-1]).tolist()
    for row in rows:
        same = row["segments"][1:] == row["segments"][:-1]
        follows = row["positions"][1:] == row["positions"][:-1] + 1
        real = row["segments"][1:] > 0
        assert np.array_equal(same[real], follows[real])
        assert np.array_equal(row["weights"] > 0, row["segments"] > 0)


def test_a_window_of_padding_has_no_weight():
    nothing = np.zeros(LENGTH + 1, np.int32)
    row = clm.OBJECTIVE.example(None, Window(nothing, nothing, nothing), SPEC)
    assert not any(row[key].any() for key in ("weights", "segments", "positions"))


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_every_token_of_a_split_is_a_target_once(tmp_path, packing):
    """First tokens of documents, of windows and of the split included."""
    cache = corpus.make_cache(tmp_path / "cache", corpus.random_lengths(0, 30, 50))
    spec = ObjectiveSpec(clm.CLM(), LENGTH, corpus.VOCAB)
    pipeline = corpus.make_pipeline(
        [cache],
        clm.OBJECTIVE.window_spec(spec),
        example=lambda rng, window, _: clm.OBJECTIVE.example(rng, window, spec),
        packing=packing,
    )
    batches = list(pipeline.epoch_batches())
    targets = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in batches])
    assert sorted(targets.tolist()) == cache.tokens[:].tolist()
    firsts = np.concatenate([batch["targets"][batch["tokens"] == corpus.VOCAB.bos] for batch in batches])
    begins = set(cache.tokens[cache.offsets[:-1]].tolist())
    # Best-fit packing also sets the rest of a long document behind others, where it needs a bos.
    assert begins == set(firsts.tolist()) if packing == "concat" else begins <= set(firsts.tolist())
