"""Optimizer state is born split as the parameters are, and the sharded optimizer is the same optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from tests.optim import trees
from tests.tiers import tiers
from tlx.base import tree
from tlx.optim import MuonConfig, OptimizerConfig, make_optimizer, state_shardings
from tlx.parallel import PRESETS, MeshConfig, make_mesh, param_shardings, unbox

pytestmark = pytest.mark.jax_versions

CONFIGS = {
    "adamw": OptimizerConfig(),
    "adafactor": OptimizerConfig(name="adafactor"),
    "adagrad": OptimizerConfig(name="adagrad"),
    "lamb": OptimizerConfig(name="lamb"),
    "lion": OptimizerConfig(name="lion"),
    "muon": OptimizerConfig(name="muon", muon=MuonConfig(ns_steps=2)),
    "groups": OptimizerConfig(
        name="adafactor",
        weight_decay_multipliers=(("embed", 0.0),),
        lr_multipliers=(("blocks[2:]/", 0.5), ("heads", 2.0)),
        freeze=("position",),
    ),
}
WIDE = trees.abstract(width=256, heads=4)


def sharded(config, mesh_config, abstract):
    """(optimizer, shardings of parameters, shardings of state) on eight devices."""
    mesh = make_mesh(mesh_config)
    optimizer = make_optimizer(config, lambda count: 0.01, abstract)
    params = param_shardings(abstract, mesh, PRESETS[mesh_config.rules])
    state = jax.eval_shape(optimizer.init, unbox(abstract))
    return optimizer, params, state_shardings(state, unbox(abstract), params, mesh)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_device_holds_an_eighth_and_never_more(name):
    optimizer, params, state = sharded(CONFIGS[name], MeshConfig(data=1, fsdp=8), WIDE)
    init = jax.jit(optimizer.init, in_shardings=(params,), out_shardings=state)
    compiled = init.lower(unbox(WIDE)).compile()
    live = init(jax.device_put(trees.values(WIDE, 0), params))
    device = jax.devices()[3]
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(live)
        for shard in leaf.addressable_shards
        if shard.device == device
    )
    counters = sum(leaf.nbytes for leaf in jax.tree.leaves(live) if leaf.size <= 3)
    assert held == (tree.num_bytes(live) - counters) / 8 + counters
    assert counters < 64
    biggest = max(leaf.size for leaf in jax.tree.leaves(unbox(WIDE)))
    assert compiled.memory_analysis().temp_size_in_bytes <= biggest * 4 / 8


@pytest.mark.parametrize("name", tiers(CONFIGS, quick=["adamw"], slow=["adafactor", "muon", "lamb"]))
def test_sharded_updates_equal_those_of_one_device(name):
    abstract = trees.abstract(width=32, heads=4)
    optimizer, params, state = sharded(CONFIGS[name], MeshConfig(data=2, fsdp=2, tensor=2), abstract)
    values, grads = trees.values(abstract, 0), trees.values(abstract, 1)
    alone, _ = jax.jit(optimizer.update)(grads, optimizer.init(values), values)
    start = jax.jit(optimizer.init, in_shardings=(params,), out_shardings=state)
    shardings = {"in_shardings": (params, state, params), "out_shardings": (params, state)}
    values, grads = jax.device_put((values, grads), (params, params))
    together, _ = jax.jit(optimizer.update, **shardings)(grads, start(values), values)
    for path, leaf in tree.flatten(together).items():
        np.testing.assert_allclose(leaf, tree.flatten(alone)[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_factored_leaves_keep_their_axes_and_take_those_left_over():
    mesh = AbstractMesh((2, 4), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def sharding(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    params = {
        "kernel": jax.ShapeDtypeStruct((3, 64, 4, 16), jnp.float32),
        "square": jax.ShapeDtypeStruct((32, 32), jnp.float32),
        "scale": jax.ShapeDtypeStruct((3, 64), jnp.float32),
    }
    shardings = {
        "kernel": sharding(None, "fsdp", "tensor", None),
        "square": sharding("fsdp", "tensor"),
        "scale": sharding(None, "fsdp"),
    }
    shapes = {
        "count": (),
        "row": {"kernel": (3, 64), "square": (32,), "scale": (3, 1)},
        "col": {"kernel": (3, 4 * 16), "square": (32,), "scale": (3, 1)},
        "mu": {"kernel": (3, 64, 4, 16), "square": (32, 32), "scale": (3, 64)},
    }
    state = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    found = jax.tree.map(lambda leaf: leaf.spec, state_shardings(state, params, shardings, mesh))
    assert found["count"] == PartitionSpec()
    assert found["mu"] == jax.tree.map(lambda leaf: leaf.spec, shardings)
    assert found["row"]["scale"] == PartitionSpec()
    assert set(found["row"]["kernel"][1]) == set(found["col"]["kernel"][1]) == {"fsdp", "tensor"}
    assert set(found["row"]["square"][0]) == {"fsdp", "tensor"}
