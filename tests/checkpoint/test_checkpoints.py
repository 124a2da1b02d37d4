"""Saving, sealing, restoring and keeping checkpoints, with the faults that real disks and devices have."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tlx.checkpoint import CheckpointConfig, Checkpoints


class State(NamedTuple):
    params: Any
    opt_state: Any
    carry: Any
    step: Any


def mesh_of(count: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=(AxisType.Auto,))


def state_on(count: int, seed: int = 0, width: int = 16) -> State:
    """A small state with every dtype that training has, its first parameter split over `count` devices."""
    mesh = mesh_of(count)
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    rng = np.random.default_rng(seed)
    params = {
        "model": {
            "embed": jax.device_put(rng.normal(size=(64, width)).astype(np.float32), split),
            "scale": jax.device_put(jnp.asarray(rng.normal(size=(3,)), jnp.bfloat16), whole),
        }
    }
    carry = {"memory": jax.device_put(rng.normal(size=(8, 4)).astype(np.float32), split)}
    seeds = jax.device_put(jnp.asarray([seed, 7], jnp.uint32), whole)
    return State(
        params, optax.adam(1e-3).init(params), {"m": carry, "none": None}, {"n": jnp.int32(seed), "k": seeds}
    )


def abstract(state: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("count", [8, 4, 1])
def test_restores_bit_for_bit_on_other_devices(tmp_path, count):
    saved = state_on(8, seed=3)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.prepare()
        assert checkpoints.restore(abstract(saved)) is None
        assert checkpoints.save(3, saved, {"note": "hi"})
        assert checkpoints.wait()
    wanted = abstract(state_on(count))
    loaded = Checkpoints(tmp_path / "c").restore(wanted)
    assert (loaded.step, loaded.extra) == (3, {"note": "hi"})
    assert_same(loaded.tree, saved)
    for leaf, like in zip(jax.tree.leaves(loaded.tree), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding == like.sharding


def test_keeps_the_newest_and_the_permanent(tmp_path):
    config = CheckpointConfig(every=10, keep=2, keep_every=30)
    with Checkpoints(tmp_path, config) as checkpoints:
        checkpoints.prepare()
        for step in range(1, 81):
            if checkpoints.due(step):
                assert checkpoints.save(step, state_on(1, seed=step))
        assert checkpoints.wait()
        assert checkpoints.complete_steps() == [30, 60, 70, 80]
        assert not checkpoints.save(80, state_on(1)), "a saved step is not saved again"
