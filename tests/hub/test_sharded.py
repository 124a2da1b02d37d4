"""A mesh of 8 devices gives what one device gives, each device reads its part, and big models are split."""

import json
import math

import jax
import numpy as np
import pytest

from tests.hub import folders
from tests.hub.case import LENGTH, TOLERANCE, Case, difference, inputs, ours, visible
from tests.tiers import tiers
from tlx import parallel
from tlx.hub import network
from tlx.hub.folder import open_folder
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.models.two_stream import Memory
from tlx.nn.config import ExecutionConfig

MESH = parallel.MeshConfig(fsdp=4, tensor=2)
SMALL = {"vocab_size": 60, "width": 16, "attention__num_heads": 4, "feedforward__ff_dim": 24}
# family: (what is small, how it is read, heads)
SHAPES = {
    "bert": ({"num_layers": 2}, "encoder", ("heads/mlm",)),
    "llama": ({"num_layers": 2, "attention__num_kv_heads": 2}, "decoder", ()),
    "t5": ({"num_layers": 2, "num_decoder_layers": 1, "attention__head_dim": 4}, "encoder_decoder", ()),
    "bart": ({"num_layers": 2}, "encoder_decoder", ()),
    "xlnet": ({"num_layers": 2, "attention__head_dim": 4}, "two_stream", ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", tiers(SHAPES, quick=["llama", "t5"]))
def test_logits_over_a_mesh_are_those_of_one_device(family, tmp_path):
    changes, kind, heads = SHAPES[family]
    config = resized(TABLE.load(family).base, **SMALL, **changes)
    folders.write(tmp_path, family, config, heads)
    checkpoint = open_folder(tmp_path)
    case = Case("", "", {"n_layer": 2, "d_model": 16}, {}, inputs=kind)
    made = inputs(case, 60, 0) | {"mask": np.ones((4, LENGTH), np.int32)}
    memory = Memory(made["memory"], np.ones((4, 5), np.int32)) if "memory" in made else None
    execution = ExecutionConfig(unroll=1, attention="xla")
    module = network.Network(resized(checkpoint.config, execution=execution), checkpoint.heads)

    def apply(params):
        return module.apply({"params": params}, ours(made), memory)

    alone = jax.jit(apply)(checkpoint.read())
    mesh, rules = parallel.make_mesh(MESH), parallel.rules(MESH)
    boxed = network.boxed_params(checkpoint.config, checkpoint.heads)
    params = checkpoint.read(parallel.param_shardings(boxed, mesh, rules))
    leaves = jax.tree.leaves(params)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert held * 4 <= 1.01 * sum(leaf.nbytes for leaf in leaves), "tables of positions: by fsdp alone"
    with parallel.use(mesh, rules):
        spread = jax.jit(apply)(params)
    assert set(spread) == set(alone) and len(alone) >= 2
    for output, values in alone.items():
        found = difference(np.asarray(spread[output]), np.asarray(values), visible(output, made))
        assert found < TOLERANCE, output


@pytest.mark.parametrize(
    "family, size", [("gpt3", "175b"), ("llama2", "70b"), ("t5", "11b"), ("lamda", "137b")]
)
def test_no_device_of_512_holds_a_large_parameter_whole(family, size):
    config = TABLE.load(family).sizes[size]
    mesh_config = parallel.MeshConfig(fsdp=64, tensor=8)
    mesh = parallel.abstract_mesh(mesh_config, 512)
    boxed = network.boxed_params(config)
    shardings = parallel.param_shardings(boxed, mesh, parallel.rules(mesh_config))
    total = whole = 0
    for leaf, sharding in zip(
        jax.tree.leaves(parallel.unbox(boxed)), jax.tree.leaves(shardings), strict=True
    ):
        size_of = leaf.size * leaf.dtype.itemsize
        part = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        assert part < size_of or size_of <= 2**26, (leaf.shape, sharding.spec)
        whole += part
        total += size_of
    assert whole <= 1.02 * total / 512, "and all of it is spread evenly"


@pytest.mark.slow
def test_loading_over_a_mesh(tmp_path):
    import tlx

    size = folders.byte_pairs(tmp_path).get_vocab_size()
    config = resized(TABLE.load("gpt2").base, **{**SMALL, "vocab_size": size}, num_layers=2)
    folders.write(tmp_path, "gpt2", config)
    whole, spread = tlx.load(tmp_path), tlx.load(tmp_path, mesh=MESH)
    sharding = spread.params["model"]["decoder"]["blocks"]["feedforward"]["in"]["kernel"].sharding
    assert not sharding.is_fully_replicated
    tokens = whole.tokenizer.encode("the cat sat")
    np.testing.assert_allclose(spread.logits(tokens), whole.logits(tokens), atol=1e-5)
    asked = {"max_tokens": 5, "temperature": 0.0}
    assert spread.generate("the cat", **asked) == whole.generate("the cat", **asked)
    assert json.loads((tmp_path / "config.json").read_text())["n_head"] == 4
