"""LSTM layers against torch's, directions against each other, and what a task reads of them."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.models.bilstm import BiLSTM, ScalarMix
from tlx.models.config import ModelConfig
from tlx.nn.characters import CharacterConfig
from tlx.nn.recurrent import RecurrentConfig, RecurrentLayers, empty_state
from tlx.parallel import unbox

WIDTH, CELL, BATCH, LENGTH, CHARACTERS = 6, 10, 3, 7, 5
SMALL = RecurrentConfig(cell_dim=CELL, characters=CharacterConfig(4, ((1, 3), (3, 5)), 1))
CFG = ModelConfig(kind="bilstm", vocab_size=30, width=WIDTH, num_layers=2, recurrent=SMALL)
ONES = np.ones((BATCH, LENGTH), np.int32)


def layers(cfg=SMALL):
    """The layers of one direction with drawn parameters: (module, parameters, inputs)."""
    module = RecurrentLayers(cfg, WIDTH, 2, 0.0, "float32", "float32")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)
    state = empty_state(BATCH, 2, cfg, WIDTH, "float32")
    shapes = unbox(jax.eval_shape(module.init, jax.random.key(0), x, ONES, state)["params"])
    draw = lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32)  # noqa: E731
    return module, jax.tree.map(draw, shapes), x


def run(module, params, x, segments=ONES, state=None, **kwargs):
    state = empty_state(len(x), 2, module.cfg, WIDTH, "float32") if state is None else state
    apply = jax.jit(lambda p, x, s, state: module.apply({"params": p}, x, s, state, **kwargs))
    return apply(params, x, segments, state)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
@pytest.mark.parametrize("backwards", [False, True])
def test_layers_are_torchs_lstm_with_a_projection(backwards):
    """Without clips, which it does not have; its gates are i, f, g, o, and our forget gate has one more."""
    import torch

    module, params, x = layers(dataclasses.replace(SMALL, cell_clip=0.0, projection_clip=0.0))
    found, last = run(module, params, x, backwards=backwards)
    inputs = torch.from_numpy(x[:, ::-1].copy() if backwards else x)
    for layer in range(2):
        judge = torch.nn.LSTM(WIDTH, CELL, proj_size=WIDTH, batch_first=True)
        order = [0, 2, 1, 3]
        with torch.no_grad():
            for name, theirs in (("input", judge.weight_ih_l0), ("recurrent", judge.weight_hh_l0)):
                kernel = params[name][layer][:, order].reshape(WIDTH, -1).T
                theirs.copy_(torch.from_numpy(kernel.copy()))
            bias = params["bias"][layer] + np.array([0, 0, 1, 0], np.float32)[:, None]
            judge.bias_ih_l0.copy_(torch.from_numpy(bias[order].ravel()))
            judge.bias_hh_l0.zero_()
            judge.weight_hr_l0.copy_(torch.from_numpy(params["projection"][layer].T.copy()))
            outputs, (hidden, cell) = judge(inputs)
        np.testing.assert_allclose(last.hidden[:, layer], hidden[0], atol=1e-5)
        np.testing.assert_allclose(last.cell[:, layer], cell[0], atol=1e-5)
        inputs = outputs + inputs if layer else outputs
        ours = found[layer][:, ::-1] if backwards else found[layer]
        np.testing.assert_allclose(ours, inputs, atol=1e-5)


def test_clips_bound_the_cell_and_what_it_shows():
    module, params, x = layers(dataclasses.replace(SMALL, cell_clip=0.2, projection_clip=0.1))
    (first, _), last = run(module, params, x)
    assert np.abs(first).max() == pytest.approx(0.1) and np.abs(last.cell).max() == pytest.approx(0.2)


@pytest.mark.slow
def test_two_windows_with_the_state_between_are_one():
    module, params, x = layers()
    whole, end = run(module, params, x)
    first, state = run(module, params, x[:, :3], ONES[:, :3])
    second, last = run(module, params, x[:, 3:], ONES[:, 3:], state)
    for layer in range(2):
        both = np.concatenate([first[layer], second[layer]], axis=1)
        np.testing.assert_allclose(both, whole[layer], atol=1e-6)
    np.testing.assert_allclose(last.cell, end.cell, atol=1e-6)
    assert np.abs(run(module, params, x[:, 3:], ONES[:, 3:])[0][1] - second[1]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("backwards", [False, True])
def test_packed_documents_are_read_as_alone_and_padding_leaves_nothing(backwards):
    module, params, x = layers()
    segments = np.array([[1, 1, 1, 2, 2, 0, 0], [0, 0, 1, 1, 0, 2, 2], [1] * 7], np.int32)
    packed, _ = run(module, params, x, segments, backwards=backwards)
    for row, piece in ((0, slice(0, 3)), (0, slice(3, 5)), (1, slice(2, 4)), (1, slice(5, 7))):
        part = x[row : row + 1, piece]
        alone, _ = run(module, params, part, np.ones(part.shape[:2], np.int32), backwards=backwards)
        for layer in range(2):
            np.testing.assert_allclose(packed[layer][row, piece], alone[layer][0], atol=1e-6)


def build():
    rng = np.random.default_rng(1)
    batch = {
        "characters": rng.integers(0, 261, (BATCH, LENGTH, CHARACTERS)).astype(np.int32),
        "segments": ONES,
    }
    model = BiLSTM(CFG)
    shapes = unbox(jax.eval_shape(model.init, jax.random.key(0), batch)["params"])
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    return model, params, batch


def test_a_tasks_layers_are_the_token_twice_and_both_directions():
    """The forward half of a place has seen no later token, the backward half no earlier one."""
    model, params, batch = build()
    apply = jax.jit(lambda batch: model.apply({"params": params}, batch))
    found = np.asarray(apply(batch))
    assert found.shape == (3, BATCH, LENGTH, 2 * WIDTH)
    np.testing.assert_array_equal(found[0, ..., :WIDTH], found[0, ..., WIDTH:])
    place = 3
    other = batch["characters"].copy()
    other[:, place] = (other[:, place] + 7) % 261
    moved = np.abs(np.asarray(apply({**batch, "characters": other})) - found).max(axis=1) > 0
    places = np.arange(LENGTH)
    assert np.array_equal(moved[0].any(axis=-1), places == place)
    for layer in (1, 2):
        assert np.array_equal(moved[layer, :, :WIDTH].any(axis=-1), places >= place)
        assert np.array_equal(moved[layer, :, WIDTH:].any(axis=-1), places <= place)


def test_a_scalar_mix_is_the_weighted_mean_times_gamma():
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    params = {"weights": jnp.array([0.0, 1.0, -1.0]), "gamma": jnp.array(2.5)}
    shares = np.exp([0.0, 1.0, -1.0]) / np.exp([0.0, 1.0, -1.0]).sum()
    found = ScalarMix(3).apply({"params": params}, x)
    np.testing.assert_allclose(found, 2.5 * sum(s * y for s, y in zip(shares, x, strict=True)), rtol=1e-5)
    start = unbox(ScalarMix(3).init(jax.random.key(0), x)["params"])
    np.testing.assert_allclose(ScalarMix(3).apply({"params": start}, x), x.mean(0), rtol=1e-5, atol=1e-6)
