"""Models loaded in 8 and 4 bits: what they compute, what they take in memory, and what is said of it."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import tlx
from tests.hub import folders
from tests.hub.case import network_and_inputs
from tests.hub.cases import CASES
from tests.hub.test_recorded import make
from tests.run_directory import tiny_config, write_run, write_task_run
from tests.tiers import tiers
from tlx import cli
from tlx.api import load_size
from tlx.api.forward import expected_params, forward_logits
from tlx.api.load_size import size_line, sizes_by_type
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import CheckpointError, ConfigError
from tlx.base.tree import is_quantized
from tlx.checkpoint import store
from tlx.hub import safetensors, to_devices
from tlx.hub.network import boxed_params
from tlx.hub.weights import lazy_tensor
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.nn.weight_formats import array_formats, dequantized_tree, quantize
from tlx.parallel import MeshConfig, unbox
from tlx.trainer.base_model import load_base

pytest.importorskip("qwix")
FORMATS = ("int8", "int4", "nf4")
TOKENS = np.random.default_rng(0).integers(0, 96, (2, 24))


def llama(folder, dtype=np.float32, **shape):
    """A Hugging Face directory of a small llama with drawn weights."""
    shape = {
        "width": 64,
        "num_layers": 2,
        "attention__num_heads": 2,
        "attention__num_kv_heads": 1,
        "feedforward__ff_dim": 128,
    } | shape
    folders.write(folder, "llama", resized(TABLE.load("llama").base, vocab_size=96, **shape))
    if dtype != np.float32:
        stored = safetensors.Tensors(folder)
        tensors = [(name, lazy_tensor(np.array(tensor).astype(dtype))) for name, tensor in stored.items()]
        safetensors.write(folder, tensors)
    return folder


def in_full(lm):
    """The model with its stored matrices dequantised."""
    return dataclasses.replace(lm, params=dequantized_tree(lm.params))


@pytest.mark.slow
@pytest.mark.parametrize("weights", tiers(FORMATS, quick=["nf4"]))
def test_logits_are_those_of_the_matrices_in_full(tmp_path, weights, capsys):
    lm = tlx.load(llama(tmp_path / "hf"), weights=weights)
    assert f"{weights} " in capsys.readouterr().err
    found = np.asarray(lm.logits(TOKENS))
    np.testing.assert_allclose(found, in_full(lm).logits(TOKENS), atol=2e-5)
    full = np.asarray(tlx.load(tmp_path / "hf").logits(TOKENS))
    error = np.sqrt(np.mean((found - full) ** 2) / np.mean(full**2))
    assert 0 < error < {"int8": 0.05, "int4": 0.6, "nf4": 0.6}[weights]
    assert lm.num_params == tlx.load(tmp_path / "hf").num_params


# Of a class with several cases the first.
FIRST = {case.architecture: name for name, case in reversed(CASES.items()) if not case.small}
# One with each part that no other has: experts, shared layers, bottlenecks, two streams, other position schemes.
PARTS = ("albert", "deberta-v2", "gemma3", "mixtral", "t5", "xlnet")


@pytest.mark.parametrize("name", tiers(FIRST.values(), slow=PARTS))
def test_every_class_reads_stored_matrices(name, tmp_path):
    """Of all classes, whatever their parts: the outputs are those of the same matrices in full."""
    checkpoint, _, part = make(name, tmp_path)
    boxed = boxed_params(checkpoint.config, checkpoint.heads, checkpoint.task_head)
    formats = array_formats(boxed, "int4" if len(name) % 2 else "int8")
    full = tree.flatten(checkpoint.read())

    @jax.jit
    def quantized(full):
        return {
            path: quantize(leaf, formats[path]) if path in formats else leaf for path, leaf in full.items()
        }

    params = tree.unflatten(quantized(full))
    module, *inputs = network_and_inputs(checkpoint, part["inputs"])
    apply = jax.jit(lambda params: module.apply({"params": params}, *inputs))
    found = apply(params)
    for output, wanted in apply(dequantized_tree(params)).items():
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found[output], wanted, atol=1e-4 * max(scale, 1), err_msg=output)


@pytest.mark.slow
def test_a_run_is_loaded_as_a_directory_is(tmp_path):
    write_run(tmp_path / "run", "clm")
    lm = tlx.load(tmp_path / "run", weights="int8")
    stored = {path for path, leaf in tree.flatten(lm.params, is_quantized).items() if is_quantized(leaf)}
    assert "model/decoder/blocks/attention/query/kernel" in stored and "model/embedding/table" in stored
    np.testing.assert_allclose(lm.logits(TOKENS), in_full(lm).logits(TOKENS), atol=1e-5)
    with pytest.raises(ConfigError, match="weights = 'int2' is not one of: int8, int4, nf4"):
        tlx.load(tmp_path / "run", weights="int2")


def test_a_run_is_read_parameter_by_parameter(tmp_path, monkeypatch):
    """Each is read once, for one slice after the other, and stored as where all are there."""
    write_run(tmp_path / "run", "clm")
    monkeypatch.setattr(to_devices, "PIECE_BYTES", 512)
    full = tree.flatten(tlx.load(tmp_path / "run").params)
    asked = []
    load_leaf = store.load_leaf

    def counted(folder, part, path, like):
        asked.append(path)
        return load_leaf(folder, part, path, like)

    monkeypatch.setattr(store, "load_leaf", counted)
    lm = tlx.load(tmp_path / "run", weights="nf4")
    assert sorted(asked) == sorted(full)
    formats = array_formats(expected_params(lm.module, lm.config, lm.tokenizer), "nf4")
    for path, leaf in tree.flatten(lm.params, is_quantized).items():
        wanted = (
            jax.jit(quantize, static_argnums=1)(full[path], formats[path]) if path in formats else full[path]
        )
        jax.tree.map(np.testing.assert_array_equal, leaf, wanted)


def test_an_unreadable_parameter_is_one_message(tmp_path, monkeypatch):
    write_run(tmp_path / "run", "clm")

    def failing(*_):
        raise ValueError("no such array\nand a traceback")

    monkeypatch.setattr(store, "load_leaf", failing)
    with pytest.raises(CheckpointError, match=r"checkpoints/3: cannot be loaded: ValueError: no such array$"):
        tlx.load(tmp_path / "run", weights="int8")


@pytest.mark.slow
def test_over_a_mesh_as_on_one_device(tmp_path):
    folder = llama(tmp_path / "hf")
    one = tlx.load(folder, weights="int4")
    several = tlx.load(folder, weights="int4", mesh=MeshConfig(data=2, fsdp=2, tensor=2, rules="fsdp_tp"))
    for path, leaf in tree.flatten(one.params).items():
        np.testing.assert_array_equal(tree.flatten(several.params)[path], leaf)
    np.testing.assert_allclose(several.logits(TOKENS), one.logits(TOKENS), atol=2e-5)


@pytest.mark.slow
def test_what_a_discriminator_adds_to_its_table_stays_in_full(tmp_path):
    values = to_dict(tiny_config("rtd"))
    values["objective"]["embedding_sharing"] = "gdes"
    write_task_run(tmp_path / "run", values)
    lm = tlx.load(tmp_path / "run", weights="int8")
    assert not is_quantized(lm.params["model"]["embedding"]["table"])
    assert lm.embed(["import os"]).shape == (1, 16)


@pytest.mark.slow
def test_layers_are_dequantised_one_at_a_time(tmp_path):
    """A program over twenty layers has no room for the matrices of four of them in full."""
    folder = llama(tmp_path / "hf", num_layers=20, feedforward__ff_dim=512)
    lm = tlx.load(folder, weights="nf4")
    batch = {name: jnp.zeros((1, 8), jnp.int32) for name in ("tokens", "positions", "segments")}
    compiled = forward_logits.lower(lm.module, lm.params, batch).compile()
    layers = in_full(lm).params["model"]["decoder"]["blocks"]
    assert compiled.memory_analysis().temp_size_in_bytes < tree.num_bytes(layers) / 5


# Llama 3.1 8B by its config.json (meta-llama/Llama-3.1-8B).
LLAMA_8B = {
    "width": 4096,
    "num_layers": 32,
    "vocab_size": 128256,
    "attention__num_heads": 32,
    "attention__num_kv_heads": 8,
    "feedforward__ff_dim": 14336,
}


@pytest.mark.parametrize(("weights", "limit"), [("int8", 10e9), ("int4", 6e9), ("nf4", 6e9)])
def test_a_model_of_8b_fits(weights, limit):
    config = resized(TABLE.load("llama").base, **LLAMA_8B, param_dtype="bfloat16", vocab_multiple=128)
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, tied=False))
    boxed = boxed_params(config)
    shapes = tree.flatten(unbox(boxed))
    assert tree.num_params(shapes) == 8_030_261_248
    sizes = sizes_by_type(shapes, array_formats(boxed, weights))
    assert 0.75 * limit < sum(sizes.values()) < limit
    line = size_line(tree.num_params(shapes), sizes, "bfloat16")
    assert line.startswith("8,030,261,248 parameters, ") and f"{weights} " in line


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_a_directory_is_loaded_in_the_dtype_of_its_files(tmp_path, dtype, capsys):
    folder = llama(tmp_path / "hf", dtype=dtype)
    capsys.readouterr()
    lm = tlx.load(folder)
    name = np.dtype(dtype).name
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(lm.params)} == {name}
    assert f" in {name}, computed in float32" in capsys.readouterr().err
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(tlx.load(folder, dtype="float32").params)} == {
        "float32"
    }
    # What is trained further is float32, as its updates need.
    base = load_base(folder)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(base.params)} == {"float32"}
    assert base.config.model.param_dtype == "float32"


def test_the_line_says_what_a_gpu_does_not_have(monkeypatch):
    class Turing:
        device_kind = "Tesla T4"
        compute_capability = "7.5"

    monkeypatch.setattr(load_size, "platform", lambda: "gpu")
    monkeypatch.setattr(load_size.jax, "devices", lambda: [Turing()])
    line = size_line(10, {"bfloat16": 20}, "bfloat16")
    assert line.endswith(
        "computed in bfloat16, which Tesla T4 does not have: products are computed in float32"
    )
    assert size_line(10, {"bfloat16": 20}, "float32").endswith("computed in float32")
    monkeypatch.setattr(Turing, "compute_capability", "8.0")
    assert size_line(10, {"bfloat16": 20}, "bfloat16").endswith("computed in bfloat16")


@pytest.mark.slow
def test_the_verbs_take_weights(tmp_path, capsys):
    write_run(tmp_path / "run", "clm")
    words = ["generate", str(tmp_path / "run"), "--prompt=ab", "--max_tokens=2", "--weights=int8"]
    assert cli.main(words) == 0
    assert "int8" in capsys.readouterr().err


def test_a_model_trained_in_integers_is_not_stored_in_others(tmp_path):
    from tlx.base.files import read_json, write_json

    write_run(tmp_path / "run", "mlm")
    values = read_json(tmp_path / "run/run.json")
    values["config"]["model"]["quantization"]["bits"] = 8
    write_json(tmp_path / "run/run.json", values)
    with pytest.raises(ConfigError, match="trained to be quantised in its own way"):
        tlx.load(tmp_path / "run", weights="int8")
