"""Tasks on a bilstm: what of the rows they read, and which parameters learn."""

import jax
import numpy as np
import pytest

from tests.tasks import small
from tlx.adapt.config import AdaptConfig
from tlx.adapt.parts import split
from tlx.base import tree
from tlx.models.heads import TaskHeadConfig
from tlx.models.layer_reader import LayerReader
from tlx.tasks import TABLE

CONTEXT = {"context": "abcdef", "question": "d", "answers": ["de"], "starts": [3]}
CASES = {
    "classification": ({}, [{"text": "abc", "label": "no"}, {"text": "d", "label": "yes"}]),
    "similarity": (
        {},
        [
            {"sentence1": "ab", "sentence2": "c", "score": 1.0},
            {"sentence1": "d", "sentence2": "", "score": 5},
        ],
    ),
    "token_classification": (
        {"joiner": ""},
        [{"tokens": ["a", "b"], "tags": ["B-X", "O"]}, {"tokens": ["c"], "tags": ["O"]}],
    ),
    "question_answering": ({"stride": 3, "max_question_tokens": 3}, [CONTEXT, CONTEXT]),
    "multiple_choice": (
        {"choices": ("one", "two"), "context": ("text",)},
        [{"text": "a", "one": "b", "two": "c", "label": 0}, {"text": "a", "one": "", "two": "d", "label": 1}],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_every_task_learns_a_mix_of_the_layers_and_frozen_layers_do_not(task):
    config, values = CASES[task]
    records = small.records_of(*values)
    spec = small.spec_of(task, "bilstm", records, **config)
    batch = small.batch_of(task, spec, records)
    module = small.module_of(task, "bilstm", spec.config)
    params = small.init(module, batch)

    @jax.jit
    def run(params, batch):
        def loss(params):
            terms = module.apply({"params": params}, batch)[0]
            return terms["loss"].sum

        return jax.value_and_grad(loss)(params)

    value, gradient = run(params, batch)
    flat = tree.flatten(gradient)
    dead = [path for path, leaf in flat.items() if not np.any(leaf)]
    # The last padded characters and the second backward cells of one-character tokens may have none.
    assert np.isfinite(value) and not [path for path in dead if f"{task}_reader/mix" in path], dead
    # What stands behind a text cannot be seen.
    padding = batch["segments"] == 0
    noisy = {**batch, "characters": np.where(padding[..., None], 99, batch["characters"])}
    np.testing.assert_allclose(run(params, noisy)[0], value, rtol=1e-5)
    trained, frozen = split(AdaptConfig(method="head"), params)
    assert set(trained) == {"heads"} and set(frozen) == {"model"}
    assert set(trained["heads"]) == {task, f"{task}_reader"}


@pytest.mark.slow
@pytest.mark.parametrize("lstm_layers", [0, 2])
def test_one_position_of_a_packed_row_has_read_its_text_alone_and_whole(lstm_layers):
    """Both halves of the last position move with any token of its segment, and with no other."""
    model = small.model_of("bilstm")
    reader = LayerReader(model, TaskHeadConfig(lstm_layers=lstm_layers, lstm_width=5), whole_rows=True)
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(2, 1, 7, 2 * model.width)).astype(np.float32)
    segments = np.array([[1, 1, 1, 2, 2, 2, 0]], np.int32)
    params = reader.init(jax.random.key(0), layers, segments)
    apply = jax.jit(reader.apply)
    before = np.asarray(apply(params, layers, segments))
    assert before.shape[-1] == (10 if lstm_layers else 2 * model.width)
    seen = {}
    for position in range(7):
        moved = layers.copy()
        moved[:, :, position] += 1
        difference = np.abs(np.asarray(apply(params, moved, segments)) - before)[0, 5]
        seen[position] = [bool(half.any()) for half in np.split(difference, 2)]
    whole = [False, True] if not lstm_layers else [True, True]
    assert seen[3] == whole and seen[5] == ([True, False] if not lstm_layers else [True, True])
    assert not any(any(seen[position]) for position in (0, 1, 2, 6))
    if lstm_layers:
        assert seen[4] == [True, True]
    alone = np.asarray(apply(params, layers[:, :, 3:6], np.ones((1, 3), np.int32)))
    np.testing.assert_allclose(before[:, 5], alone[:, 2], atol=1e-6)


def test_a_task_takes_the_number_of_characters_from_the_model():
    task = TABLE.load("classification")
    model = small.model_of("bilstm")
    spec = task.make_spec(task.config_class(labels=("a", "b")), model, 8, ("",), small.TOKENIZER)
    row = task.example(np.random.default_rng(0), task.empty_item(spec), spec)
    assert row["characters"].shape == (8, 6)
    np.testing.assert_array_equal(row["characters"], spec.characters[row["tokens"]])
