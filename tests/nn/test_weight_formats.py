"""Matrices stored in 8 and 4 bits: their errors, which of them are stored, and what reads them."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import parallel
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.tree import is_quantized
from tlx.hub.network import boxed_params
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.nn import weight_formats
from tlx.nn.embed import Unembedding, logits
from tlx.nn.weight_formats import ArrayFormat, array_formats, quantized_shapes
from tlx.parallel.sharding import Logical

qwix = pytest.importorskip("qwix")
FORMATS = ("int8", "int4", "nf4")
# Root mean square of the error over that of normal values, as QLoRA's table 2 orders them.
ERRORS = {"int8": 0.012, "int4": 0.13, "nf4": 0.11}


@pytest.mark.parametrize("name", FORMATS)
def test_errors_of_normal_values_are_the_formats_own(name):
    x = np.random.default_rng(0).normal(size=(2, 256, 32)).astype(np.float32)
    format = weight_formats.array_format(Logical(x, ("layers", "embed", "mlp"), (-2,)), name)
    stored = jax.jit(lambda x: weight_formats.quantize(x, format))(x)
    assert stored.scale.dtype == jnp.bfloat16
    full = np.asarray(weight_formats.dequantized(stored, "float32"))
    tiles = {} if format.tiled_dim is None else {format.tiled_dim: format.tile}
    qtype = "nf4" if name == "nf4" else jnp.dtype(name)
    theirs = qwix.quantize(x, qtype, channelwise_axes=format.channel_dims, tiled_axes=tiles)
    scale = theirs.scale.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(full, qwix.dequantize(theirs.replace(scale=scale)), rtol=1e-6)
    assert stored.shape == x.shape
    error = full - x
    assert ERRORS[name] / 4 < np.sqrt(np.mean(error**2)) < ERRORS[name]
    # Bits of a weight: a scale of 16 bits for 256, 128 and 64 of them.
    bits = {"int8": 8 + 16 / 256, "int4": 4 + 16 / 128, "nf4": 4 + 16 / 64}[name]
    assert tree.num_bytes(stored) * 8 == bits * x.size
    assert tree.num_params(stored) == x.size


def test_nf4_holds_the_published_quantiles():
    """Appendix E of the paper: sixteen values between -1 and 1, zero among them."""
    values = np.array([-1.0, -0.6961928, 0.0, 0.0795803, 0.7229568, 1.0], np.float32)
    x = np.tile(values, 16)[:64].reshape(64, 1) * 3
    stored = weight_formats.quantize(jnp.asarray(x), ArrayFormat("nf4", (1,), 0, 64))
    np.testing.assert_allclose(weight_formats.dequantized(stored, "float32"), x, rtol=1e-6)


def small(family, **shape):
    shape = {"width": 64, "num_layers": 2, "attention__num_heads": 2, "feedforward__ff_dim": 128} | shape
    return resized(TABLE.load(family).base, vocab_size=96, **shape)


def test_matrices_and_tables_are_stored_and_nothing_else():
    boxed = boxed_params(small("bert"), ("heads/mlm",))
    formats = array_formats(boxed, "nf4")
    shapes = tree.flatten(parallel.unbox(boxed))
    tables = {path for path, format in formats.items() if format.qtype == "int8"}
    assert tables == {"model/embedding/table"}
    rest = [path for path in shapes if path not in formats]
    assert all(path.startswith("heads/") or path.rpartition("/")[2] not in ("kernel",) for path in rest)
    assert not array_formats(boxed, None) and not array_formats(boxed, "")
    kept = array_formats(boxed, "nf4", lambda path: "/query/" in path)
    assert formats.keys() - kept.keys() == {path for path in formats if "/query/" in path}


def test_a_router_of_experts_stays_as_it_is():
    config = small("mixtral", attention__num_kv_heads=1, feedforward__num_experts=4)
    paths = array_formats(boxed_params(config), "int8")
    experts = {path for path in paths if path.rpartition("/")[2] in ("in", "gate", "out")}
    assert experts and not any("router" in path for path in paths)


def test_a_tile_divides_the_inputs_or_the_matrix_is_in_int8():
    def format_of(inputs):
        box = Logical(jax.ShapeDtypeStruct((2, inputs, 8), jnp.float32), ("layers", "embed", "mlp"), (-2,))
        return weight_formats.array_format(box, "int4")

    assert format_of(1024)[2:] == (1, 128)
    assert format_of(2730)[2:] == (1, 78)
    assert format_of(64)[2:] == (1, 64)
    assert format_of(2 * 1009) == ArrayFormat("int8", (0, 2))


@pytest.mark.parametrize("name", FORMATS)
def test_abstract_parameters_are_as_stored_and_sharded_alike(name):
    boxed = boxed_params(small("llama", attention__num_kv_heads=1))
    stored = quantized_shapes(boxed, name)
    mesh = parallel.abstract_mesh(parallel.MeshConfig(fsdp=4, tensor=2, rules="fsdp_tp"), 8)
    rules = parallel.rules(parallel.MeshConfig(fsdp=4, tensor=2, rules="fsdp_tp"))
    shardings = tree.flatten(parallel.param_shardings(stored, mesh, rules), is_quantized)
    full = tree.flatten(parallel.param_shardings(boxed, mesh, rules))
    for path, leaf in shardings.items():
        assert (leaf.qvalue if is_quantized(leaf) else leaf).spec == full[path].spec


def test_logits_of_a_stored_table_are_those_of_the_table_in_full():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(96, 64)), jnp.float32)
    stored = weight_formats.quantize(table, ArrayFormat("int8", (0,)))
    full = weight_formats.dequantized(stored, "float32")
    hidden = jnp.asarray(rng.normal(size=(2, 3, 64)), jnp.float32)
    found = logits(hidden, Unembedding(stored, None, 0.5, 90))
    np.testing.assert_allclose(found, logits(hidden, Unembedding(full, None, 0.5, 90)), atol=1e-5, rtol=1e-5)
    ids = jnp.asarray([[1, 5], [90, 1]])
    np.testing.assert_array_equal(weight_formats.take_rows(stored, ids), full[ids])


def test_what_is_no_format_is_said_in_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="weights = 'int3' is not one of: int8, int4, nf4"):
        weight_formats.check("int3", "weights")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"weights = 'int4' needs qwix: pip install 'tlx-lm\[quantized\]'"):
        weight_formats.check("int4", "weights")
    weight_formats.check(None, "weights")
