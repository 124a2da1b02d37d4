"""Parameters that a step changes without a gradient: ranges of activations in a whole model, on meshes, in parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli import tiny
from tests.training import shapes
from tlx import parallel
from tlx.base import observed, tree
from tlx.checkpoint import Checkpoints
from tlx.cli import flags
from tlx.nn.config import ExecutionConfig, QuantizationConfig
from tlx.optim import OptimizerConfig, ScheduleConfig, frozen_paths, make_optimizer, make_schedule
from tlx.run.assemble import assemble
from tlx.run.checks import resolve
from tlx.training.config import TrainConfig
from tlx.training.state import State, boxed_params, saved_part
from tlx.training.step import make_step

CONFIG = OptimizerConfig(learning_rate=1e-2, schedule=ScheduleConfig(name="constant", warmup=0))


@functools.cache
def quantized(unroll=1):
    """(module, boxed parameters, initial state, batch) of an encoder whose layers are quantised."""
    module, spec = shapes.make("mlm", execution=ExecutionConfig(unroll=unroll))
    part = QuantizationConfig(bits=8, decay=0.75)
    module = module.clone(model=dataclasses.replace(module.model, quantization=part))
    batch = shapes.examples("mlm", spec, 0)
    boxed = boxed_params(module, {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()})
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if observed.is_observed(path):
            return np.zeros(leaf.shape, np.float32)
        return rng.normal(1.0 if path.endswith("scale") else 0.0, 0.1, leaf.shape).astype(np.float32)

    params = tree.map_with_path(draw, parallel.unbox(boxed))
    optimizer = make_optimizer(CONFIG, make_schedule(CONFIG, 10), boxed)
    zero = np.zeros((), np.int32)
    state = State(params, {}, optimizer.init(params), None, np.uint32(3), zero, zero, zero)
    return module, boxed, state, batch


@functools.cache
def step_of(microbatches=1, unroll=1):
    module, boxed, _, _ = quantized(unroll)
    schedule = make_schedule(CONFIG, 10)
    optimizer = make_optimizer(CONFIG, schedule, boxed)
    config = TrainConfig(batch_size=shapes.BATCH, steps=10, microbatches=microbatches)
    return jax.jit(make_step(module, optimizer, schedule, config, frozen_paths(CONFIG, boxed)))


def ranges(state):
    flat = tree.flatten(jax.device_get(state.params))
    return {path: leaf for path, leaf in flat.items() if observed.is_observed(path)}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_of_a_batch_ask_for_what_its_largest_value_asks_for(count):
    """The mean over the uses of a parameter, and the largest of the parts, of any number and order."""
    rng = np.random.default_rng(count)
    changes = rng.normal(size=(count, 3))
    parts = [np.stack([2 * change, np.full(3, 2.0)], -1) for change in changes]
    parts.insert(1, np.zeros((3, 2)))
    total = functools.reduce(observed.join, map(jnp.asarray, parts), jnp.zeros((3, 2)))
    np.testing.assert_allclose(total, np.stack([changes.max(0), np.ones(3)], -1), rtol=1e-6)
    value = np.array([[1.0, 4.0]] * 3)
    np.testing.assert_allclose(observed.changed(value, total)[:, 1], 5.0)
    np.testing.assert_array_equal(observed.changed(value, jnp.zeros((3, 2))), value)


@pytest.mark.slow
def test_ranges_follow_the_largest_values_and_the_optimizer_knows_nothing_of_them():
    module, boxed, state, batch = quantized()
    before = ranges(state)
    # Queries and keys are not quantised again, and the logits' kernel is none of the linear layers.
    assert {path.partition("blocks/")[2] for path in before if "blocks" in path} == {
        *(f"attention/{name}/input_range" for name in ("query", "key", "value", "out")),
        *(f"attention/{name}/output_range" for name in ("value", "out")),
        *(f"feedforward/{name}/{side}_range" for name in ("in", "out") for side in ("input", "output")),
    }
    assert all(leaf.shape == (2, 2) for path, leaf in before.items() if "blocks" in path)
    assert not any("range" in path for path in tree.flatten(state.opt_state.parts))
    step = step_of()
    first, metrics = step(state, batch)
    assert all((leaf[..., 1] == 1).all() and (leaf[..., 0] > 0).all() for leaf in ranges(first).values())
    second, _ = step(first, batch)
    assert all((leaf[..., 1] == 2).all() for leaf in ranges(second).values())
    kernel = "model/encoder/blocks/attention/query/kernel"
    assert not np.array_equal(tree.flatten(first.params)[kernel], tree.flatten(state.params)[kernel])
    assert np.isfinite(metrics["grad_norm"])


@pytest.mark.slow
def test_microbatches_and_unrolled_layers_observe_the_same():
    _, _, state, batch = quantized()
    whole, metrics = step_of()(state, batch)
    for other in (step_of(2), step_of(1, 2)):
        parts, parts_metrics = other(state, batch)
        for path, leaf in ranges(whole).items():
            np.testing.assert_allclose(ranges(parts)[path], leaf, rtol=1e-6, err_msg=path)
        np.testing.assert_allclose(parts_metrics["grad_norm"], metrics["grad_norm"], rtol=1e-4)


@pytest.mark.slow
def test_a_skipped_step_changes_no_range():
    _, _, state, batch = quantized()
    state, _ = step_of()(state, batch)
    bad = {**batch, "weights": np.full_like(batch["weights"], np.nan)}
    after, metrics = step_of()(state, bad)
    assert metrics["skipped"] == 1
    for path, leaf in ranges(state).items():
        np.testing.assert_array_equal(ranges(after)[path], leaf, err_msg=path)


def config_on(path, **mesh):
    config = flags.load_config(f"{path}:mlm")
    config.model.quantization.bits = 8
    config.model.dropout = 0.0
    for name, size in mesh.items():
        setattr(config.mesh, name, size)
    return resolve(config)


@pytest.mark.slow
def test_a_run_is_resumed_bit_for_bit_and_restored_on_another_mesh(tmp_path):
    path = tiny.write_config(tmp_path)
    run = assemble(config_on(path, data=2, fsdp=4))

    def advance(run, state, steps):
        with run.use():
            for step in steps:
                batch = run.to_devices(run.train.batch(step, run.local_row_indices))
                state, _ = run.step(state, batch)
        return state

    with run.use():
        state = run.init()
    state = advance(run, state, range(2))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.prepare()
        checkpoints.save(2, saved_part(state))
        checkpoints.wait()
        whole = jax.device_get(advance(run, state, range(2, 4)).params)
        with run.use():
            again = State(**checkpoints.restore(saved_part(run.state)).tree, frozen={})
        saved_ranges = ranges(again)
        resumed = jax.device_get(advance(run, again, range(2, 4)).params)
        jax.tree.map(np.testing.assert_array_equal, resumed, whole)
        other = assemble(config_on(path, data=1, fsdp=2, tensor=4))
        with other.use():
            moved = State(**checkpoints.restore(saved_part(other.state)).tree, frozen={})
        before = {name: leaf for name, leaf in tree.flatten(jax.device_get(moved.params)).items()}
        for name, leaf in saved_ranges.items():
            np.testing.assert_array_equal(before[name], leaf)
        moved = ranges(advance(other, moved, range(2, 4)))
    for name, leaf in tree.flatten(whole).items():
        if observed.is_observed(name):
            np.testing.assert_allclose(moved[name], leaf, rtol=2e-3, err_msg=name)
