"""Checkpoints in float8 load as transformers loads them; files of GPTQ and AWQ are refused in one line."""

import json

import ml_dtypes
import numpy as np
import pytest

import tlx
from tests.hub import folders
from tlx.base import tree
from tlx.base.errors import ConfigError, DataError
from tlx.hub import safetensors
from tlx.hub.folder import STORED, open_folder
from tlx.hub.fp8 import FullTensors
from tlx.hub.weights import lazy_tensor
from tlx.models.families import TABLE
from tlx.models.families.family import resized

SIZES = {
    "vocab_size": 160,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def quantised_by_transformers(folder, block, scale_format="float"):
    """A directory of LlamaForCausalLM whose linear layers transformers' own operation has put into float8."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.integrations.finegrained_fp8 import Fp8Quantize
    from transformers.utils.quantization_config import FineGrainedFP8Config

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    settings = FineGrainedFP8Config(weight_block_size=block)
    if hasattr(settings, "scale_fmt"):
        settings.scale_fmt = scale_format
    operation = Fp8Quantize(type("Quantizer", (), {"quantization_config": settings})())
    tensors = {}
    for name, value in model.state_dict().items():
        is_linear = name.endswith("_proj.weight")
        tensors |= operation.convert({name: value}) if is_linear else {name: value}
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": block,
        "modules_to_not_convert": ["lm_head"],
    }
    (folder / "config.json").write_text(json.dumps(values))
    assert any(str(tensor.dtype) == "torch.float8_e4m3fn" for tensor in tensors.values())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("block", [[128, 128], None])
def test_files_made_by_transformers_load_equal(tmp_path, block):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = quantised_by_transformers(tmp_path / "fp8", block)
    tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 24))
    # Without a GPU transformers multiplies the scales itself.
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens)).logits.numpy()
    lm = tlx.load(folder, dtype="float32")
    assert np.abs(np.asarray(lm.logits(tokens))[..., : wanted.shape[-1]] - wanted).max() < 1e-4
    state = theirs.state_dict()["model.layers.1.mlp.down_proj.weight"].numpy()
    kernel = tree.flatten(lm.params)["model/decoder/blocks/feedforward/out/kernel"][1]
    np.testing.assert_array_equal(kernel, state.T)
    # In the file's own terms, and in four bits.
    assert (
        str(tree.flatten(tlx.load(folder).params)["model/decoder/blocks/feedforward/out/kernel"].dtype)
        == "bfloat16"
    )
    assert np.isfinite(np.asarray(tlx.load(folder, weights="int4").logits(tokens))).all()


def tiny(folder):
    """A directory of a llama of one layer, without a tokenizer."""
    shape = {"width": 16, "num_layers": 1, "attention__num_heads": 2, "attention__num_kv_heads": 1}
    config = resized(TABLE.load("llama").base, vocab_size=32, feedforward__ff_dim=16, **shape)
    folders.write(folder, "llama", config)


def block_file(folder, shape, scale_shape):
    """A tensor in float8 with scales, and no model."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(0.5, 2, scale_shape).astype(np.float32)
    tensors = [("a.weight", lazy_tensor(values)), ("a.weight_scale_inv", lazy_tensor(scales))]
    safetensors.write(folder, tensors)
    return values.astype(np.float32), scales


def test_blocks_at_the_edge_are_cut(tmp_path):
    values, scales = block_file(tmp_path, (200, 300), (2, 3))
    full = FullTensors(safetensors.Tensors(tmp_path)).read("a.weight", np.dtype(np.float32))
    for row, column in ((0, 0), (127, 128), (128, 127), (199, 299)):
        assert full[row, column] == values[row, column] * scales[row // 128, column // 128]


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised by GPTQ, only fp8 in blocks of 128"),
        ({"quant_method": "awq", "bits": 4}, "quantised by AWQ, only fp8"),
        ({"quant_method": "bitsandbytes"}, "quantised by bitsandbytes"),
        ({"bits": 4}, "quantised by quant_method = None"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"weight_block_size = \[64, 64\]"),
        ("int4", "must be an object"),
    ],
)
def test_other_formats_are_refused_in_one_line(tmp_path, quantization, message):
    tiny(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization}))
    with pytest.raises(ConfigError, match=message) as error:
        open_folder(tmp_path, param_dtype=STORED)
    assert "\n" not in str(error.value)


def test_float8_without_a_scale_is_refused(tmp_path):
    tiny(tmp_path)
    stored = {name: np.array(tensor) for name, tensor in safetensors.Tensors(tmp_path).items()}
    name = "model.layers.0.mlp.down_proj.weight"
    stored[name] = stored[name].astype(ml_dtypes.float8_e4m3fn)
    safetensors.write(tmp_path, [(key, lazy_tensor(value)) for key, value in stored.items()])
    with pytest.raises(DataError, match="is float8 and has no .*down_proj.weight_scale_inv"):
        open_folder(tmp_path)
