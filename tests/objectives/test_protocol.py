"""What holds for every objective in the table."""

import subprocess
import sys

import numpy as np
import pytest

from tlx.base.config import from_dict, to_dict
from tlx.base.lookup import Table
from tlx.data.window import Window, WindowSpec
from tlx.objectives import TABLE
from tlx.objectives.shared.base import Objective, ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(300)
LENGTH = 48


def window(rng: np.random.Generator, reads: WindowSpec) -> Window:
    """Some documents, then perhaps padding; beside them a second text where one is read."""
    length = reads.length
    other = window(rng, WindowSpec(reads.second_length)) if reads.second_length else None
    num_text = rng.integers(0, length + 1) if rng.random() < 0.5 else length
    cuts = np.sort(rng.integers(0, num_text + 1, 2))
    segments = np.zeros(length, np.int32)
    segments[:num_text] = 1 + np.searchsorted(cuts, np.arange(num_text), side="right")
    segments[:num_text] -= segments[0] - 1 if num_text else 0
    positions = np.arange(length) - np.searchsorted(segments, segments)
    tokens = np.where(segments > 0, rng.integers(7, 200, length), 0)
    positions = np.where(segments > 0, positions, 0).astype(np.int32)
    return Window(tokens.astype(np.int32), segments, positions, other)


@pytest.fixture(params=TABLE)
def objective(request) -> Objective:
    return TABLE.load(request.param)


def test_name_and_config(objective):
    config = objective.config_class()
    config.validate()
    assert TABLE.load(config.name) is objective
    assert from_dict(objective.config_class, to_dict(config)) == config


def test_rows_have_one_shape_and_are_a_function_of_the_generator(objective):
    spec = ObjectiveSpec(objective.config_class(), LENGTH, VOCAB)
    reads, draws, shapes = objective.window_spec(spec), np.random.default_rng(0), set()
    for seed in range(200):
        text = window(draws, reads)
        before = [array.copy() for array in text[:3]]
        row = objective.example(np.random.Generator(np.random.Philox(key=seed)), text, spec)
        again = objective.example(np.random.Generator(np.random.Philox(key=seed)), text, spec)
        assert all(np.array_equal(a, b) for a, b in zip(before, text[:3], strict=True))
        assert all(np.array_equal(row[key], again[key]) for key in row)
        shapes.add(tuple(sorted((key, array.shape, array.dtype.name) for key, array in row.items())))
        assert all(row[key].min() >= 0 and row[key].max() < VOCAB.size for key in row if "tokens" in key)
        assert np.all(row["targets"][row["weights"] == 0] == VOCAB.pad)
        weighted = np.count_nonzero(text.segments) > 8 and reads.layout not in ("parallel", "turns")
        assert row["weights"].any() or not weighted
    assert len(shapes) == 1
    assert {dtype for *_, dtype in shapes.pop()} == {"int32", "float32"}


def test_no_array_shares_memory_with_the_window(objective):
    """Rows may be kept and changed while the token cache is read-only."""
    spec = ObjectiveSpec(objective.config_class(), LENGTH, VOCAB)
    rng = np.random.default_rng(1)
    text = window(rng, objective.window_spec(spec))
    row = objective.example(rng, text, spec)
    assert not any(np.shares_memory(a, b) for a in row.values() for b in text[:3])


def test_workers_make_rows_without_a_jax_backend():
    program = f"""
import numpy as np
from tlx.objectives import TABLE
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

from tlx.data.window import dummy_window
for name in TABLE:
    objective = TABLE.load(name)
    spec = ObjectiveSpec(objective.config_class(), {LENGTH}, Vocabulary(300))
    window = dummy_window(objective.window_spec(spec), spec.vocab)
    objective.example(np.random.default_rng(0), window, spec)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_an_unknown_name_is_an_error():
    assert isinstance(TABLE, Table) and TABLE.kind == "objective"
    with pytest.raises(Exception, match="did you mean 'span_corruption'"):
        TABLE.load("span_coruption")
