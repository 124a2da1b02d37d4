"""The step: equal for any number of microbatches, learns, skips what is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.toy import Toy, batch_at
from tlx.training import step as steps
from tlx.training.config import TrainConfig
from tlx.training.state import init_state

pytestmark = pytest.mark.jax_versions


def make(memory=True, **config):
    module = Toy(memory=memory)
    schedule = optax.constant_schedule(1e-2)
    optimizer = optax.adamw(schedule)
    state = init_state(module, optimizer, batch_at(0), 8, seed=1)
    return module, state, jax.jit(steps.make_step(module, optimizer, schedule, TrainConfig(**config)))


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_change_nothing(memory, microbatches):
    module, state, _ = make(memory)
    keys = steps.row_keys(state.seed, state.step, 8)
    whole = steps.gradients(module, state, batch_at(3), keys, 1)
    parts = steps.gradients(module, state, batch_at(3), keys, microbatches)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)


def test_rows_keep_their_memory_when_microbatched():
    module, state, _ = make()
    _, _, step1 = make()
    _, _, step4 = make(microbatches=4)
    one, four = state, state
    for k in range(3):
        one, _ = step1(one, batch_at(k))
        four, _ = step4(four, batch_at(k))
    np.testing.assert_allclose(one.carry["memory"], four.carry["memory"], rtol=2e-5, atol=1e-6)


def test_weights_cost_no_forward():
    """What the gradient scan divides by is computed from the batch alone: no matrix product is left."""
    module, state, _ = make()
    weigh = jax.jit(
        lambda state, batch: steps.term_weights(module, state, batch, jax.random.split(state.seed))
    )
    weigh = jax.jit(lambda state, batch, keys: steps.term_weights(module, state, batch, keys))
    text = weigh.lower(state, batch_at(0), steps.row_keys(0, 0, 8)).compile().as_text()
    assert "dot(" not in text
    full = jax.jit(lambda state, batch, keys: steps.gradients(module, state, batch, keys))
    assert "dot(" in full.lower(state, batch_at(0), steps.row_keys(0, 0, 8)).compile().as_text()


def test_learns():
    _, state, step = make()
    losses = []
    for k in range(60):
        state, metrics = step(state, batch_at(k))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.6 * losses[0]
    assert int(state.step) == 60 and int(state.skipped) == 0


def test_not_finite_is_skipped_and_counted():
    _, state, step = make()
    state, _ = step(state, batch_at(0))
    bad = batch_at(1)
    bad["tokens"][0, 0] = 99
    after, metrics = step(state, bad)
    for name in ("params", "opt_state", "carry"):
        before = jax.tree.leaves(getattr(state, name))
        for a, b in zip(before, jax.tree.leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (int(after.step), int(after.skipped), int(metrics["skipped_in_a_row"])) == (2, 1, 1)
    after, metrics = step(after, bad)
    assert int(metrics["skipped_in_a_row"]) == 2
    after, metrics = step(after, batch_at(2))
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
    assert (
        int(optax.tree.get(after.opt_state, "count", filtering=lambda path, _: "adam" in str(path).lower()))
        == 2
    )


def test_a_gradient_that_overflows_is_skipped_though_the_loss_is_finite():
    _, state, step = make(clip_norm=None)
    huge = state._replace(params=jax.tree.map(lambda p: p * 1e20, state.params))
    after, metrics = step(huge, batch_at(0))
    assert not np.isfinite(metrics["grad_norm"]) or not np.isfinite(metrics["total_loss"])
    assert int(after.skipped) == 1


def test_norms_of_layers_are_numpys():
    """Of each stack and layer over all leaves; what is in no stack has no part."""
    rng = np.random.default_rng(0)
    query, norm = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 7))
    other = rng.normal(size=(2, 6))
    blocks = {"query": {"kernel": query}, "norm": {"scale": norm}}
    model = {"encoder": {"blocks": blocks}, "decoder": {"blocks": {"out": other}}, "embedding": query}
    found = steps.layer_norms({"model": jax.tree.map(jnp.asarray, model)})
    expected = np.sqrt((query**2).sum((1, 2)) + (norm**2).sum(1))
    assert sorted(found) == [
        f"grad_norm/{name}" for name in ("decoder/00", "decoder/01", "encoder/00", "encoder/01", "encoder/02")
    ]
    for layer in range(3):
        assert found[f"grad_norm/encoder/{layer:02}"] == pytest.approx(expected[layer], rel=1e-5)
    assert found["grad_norm/decoder/01"] == pytest.approx(np.linalg.norm(other[1]), rel=1e-5)
    _, state, step = make(layer_norms=True)
    assert "grad_norm" in jax.eval_shape(step, state, batch_at(0))[1]


def test_clipping_bounds_the_update():
    module = Toy()
    schedule = optax.constant_schedule(1.0)
    optimizer = optax.sgd(schedule)
    state = init_state(module, optimizer, batch_at(0), 8, seed=1)
    step = jax.jit(steps.make_step(module, optimizer, schedule, TrainConfig(clip_norm=1e-3)))
    after, metrics = step(state, batch_at(0))
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, state.params))
    assert metrics["grad_norm"] > 1e-3
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


def test_row_keys_follow_seed_step_and_row():
    data = jax.random.key_data(steps.row_keys(1, 2, 4))
    assert len(np.unique(data, axis=0)) == 4
    np.testing.assert_array_equal(data, jax.random.key_data(steps.row_keys(1, 2, 8))[:4])
    assert not np.array_equal(data, jax.random.key_data(steps.row_keys(1, 3, 4)))
    assert not np.array_equal(data, jax.random.key_data(steps.row_keys(2, 2, 4)))


def test_fixed_parameters_have_no_part_in_the_norm():
    module, state, _ = make()
    keys = steps.row_keys(state.seed, state.step, 8)
    all_of_it = steps.gradients(module, state, batch_at(0), keys, 2)
    part = steps.gradients(module, state, batch_at(0), keys, 2, frozenset({"out"}))
    assert not np.any(part.grads["out"]) and np.any(all_of_it.grads["out"])
    np.testing.assert_array_equal(part.grads["kernel"], all_of_it.grads["kernel"])


def test_frozen_parameters_are_read_and_not_trained():
    module, state, step = make()
    split = state._replace(
        params={"kernel": state.params["kernel"]},
        frozen={"out": state.params["out"]},
        opt_state=optax.adamw(1e-2).init({"kernel": state.params["kernel"]}),
    )
    whole, m1 = step(state, batch_at(0))
    part, m2 = jax.jit(
        steps.make_step(module, optax.adamw(1e-2), optax.constant_schedule(1e-2), TrainConfig())
    )(split, batch_at(0))
    np.testing.assert_allclose(m1["loss"], m2["loss"])
    np.testing.assert_array_equal(part.frozen["out"], state.params["out"])
    assert not np.array_equal(part.params["kernel"], state.params["kernel"])
