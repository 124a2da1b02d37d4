"""CTRL: the code before every sequence, and every token of the text a target."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import corpus
from tests.objectives.cases import LENGTH, batch_of, compiled, distinct_text, influence, log_softmax
from tests.objectives.cases import VOCAB as SMALL
from tests.objectives.rows import window
from tlx.base.errors import ConfigError
from tlx.data.window import Window
from tlx.objectives import TABLE, ctrl
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(400)
SPEC = ObjectiveSpec(ctrl.CTRL(), 12, VOCAB, languages=("Wikipedia", "Books"))


def test_a_row_by_hand():
    tokens = np.arange(50, 62, dtype=np.int32)
    segments = np.repeat([1, 2, 0], [5, 4, 3]).astype(np.int32)
    positions = np.concatenate([np.arange(5), np.arange(4), np.zeros(3)]).astype(np.int32)
    tokens[9:] = 0
    row = ctrl.OBJECTIVE.example(None, Window(tokens, segments, positions, language=1), SPEC)
    code = VOCAB.mark(1)
    assert row["tokens"].tolist() == [code, 50, 51, 52, 53, code, 55, 56, 57, 0, 0, 0]
    assert row["targets"].tolist() == [*range(50, 59), 0, 0, 0]
    assert row["weights"].tolist() == [1.0] * 9 + [0.0] * 3
    assert row["positions"].tolist() == positions.tolist()


@settings(deadline=None)
@given(st.lists(st.integers(7, 299), max_size=12), st.integers(0, 1))
def test_code_and_targets_are_the_text(text, language):
    row = ctrl.OBJECTIVE.example(None, window(np.array(text, np.int32), 12, language), SPEC)
    real = row["segments"] > 0
    assert row["targets"][real].tolist() == text
    assert row["tokens"][real].tolist() == ([VOCAB.mark(language), *text[:-1]] if text else [])


def test_every_token_of_a_split_is_a_target_once(tmp_path):
    cache = corpus.make_cache(tmp_path / "cache", corpus.random_lengths(0, 30, 50))
    spec = ObjectiveSpec(ctrl.CTRL(), 16, corpus.VOCAB)
    pipeline = corpus.make_pipeline(
        [cache],
        ctrl.OBJECTIVE.window_spec(spec),
        example=lambda rng, window, _: ctrl.OBJECTIVE.example(rng, window, spec),
    )
    batches = list(pipeline.epoch_batches())
    targets = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in batches])
    assert sorted(targets.tolist()) == cache.tokens[:].tolist()


def test_too_many_codes_are_an_error():
    with pytest.raises(ConfigError, match="101 control codes"):
        ctrl.OBJECTIVE.window_spec(dataclasses.replace(SPEC, languages=tuple(f"c{i}" for i in range(101))))


def case() -> dict[str, np.ndarray]:
    """Two documents and padding, as the rows of the causal model are: the module is the same."""
    text = distinct_text(LENGTH, [10, 12])._replace(language=1)
    row = ctrl.OBJECTIVE.example(
        None, text, ObjectiveSpec(ctrl.CTRL(), LENGTH, SMALL, languages=("Wikipedia", "Books"))
    )
    return {key: value[None] for key, value in row.items()}


def test_loss_is_numpys():
    batch = case()
    assert (
        TABLE.load("ctrl").module is TABLE.load("clm").module
        and batch.keys() == batch_of("clm", [None]).keys()
    )
    terms, logits, _ = compiled("clm").forward(batch)
    scores = np.take_along_axis(log_softmax(np.asarray(logits)), batch["targets"][..., None], -1)[..., 0]
    assert batch["weights"].sum() == terms["loss"].weight == 22
    np.testing.assert_allclose(terms["loss"].sum, -(scores * batch["weights"]).sum(), rtol=1e-5)


def test_a_target_sees_its_code_and_what_comes_before_in_its_document():
    batch = case()
    tokens, segments = batch["tokens"][0], batch["segments"][0]
    seen = influence("clm", batch) > 0
    code = SMALL.mark(1)
    assert np.flatnonzero(tokens == code).tolist() == [0, 10]
    for place in np.flatnonzero(segments):
        before = tokens[: place + 1][segments[: place + 1] == segments[place]]
        assert np.flatnonzero(seen[place]).tolist() == sorted(before)
        assert not seen[place, batch["targets"][0, place]]
