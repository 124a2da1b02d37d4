"""LoRA for peft: its tensors' names by record, what they add to the base's, and peft itself where it is."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlx
from tests.cli.test_finetune import SHORT, finetune, folder  # noqa: F401 (the fixture)
from tests.hub import folders
from tlx.adapt.merge import merge
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.cli import main
from tlx.hub.folder import save_folder
from tlx.hub.network import abstract_params
from tlx.hub.peft import save_adapter, updates
from tlx.hub.safetensors import SINGLE, Tensors
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.models.transformer import Transformer
from tlx.nn.config import AdapterConfig

EVERYWHERE = ("attention/query", "attention/value", "attention/out", "feedforward/in", "feedforward/out")
# (family, class) -> layers of the first block: (rank of A and B, inputs, outputs); rank 3 a matrix.
CASES = {
    ("bert", "BertForMaskedLM"): {
        "bert.encoder.layer.0.attention.self.query": (3, 16, 16),
        "bert.encoder.layer.0.attention.self.value": (3, 16, 16),
        "bert.encoder.layer.0.attention.output.dense": (3, 16, 16),
        "bert.encoder.layer.0.intermediate.dense": (3, 16, 24),
        "bert.encoder.layer.0.output.dense": (3, 24, 16),
    },
    ("gpt2", "GPT2LMHeadModel"): {
        "transformer.h.0.attn.c_attn": (6, 16, 48),
        "transformer.h.0.attn.c_proj": (3, 16, 16),
        "transformer.h.0.mlp.c_fc": (3, 16, 24),
        "transformer.h.0.mlp.c_proj": (3, 24, 16),
    },
    ("t5", "T5ForConditionalGeneration"): {
        "encoder.block.0.layer.0.SelfAttention.q": (3, 16, 16),
        "encoder.block.0.layer.0.SelfAttention.v": (3, 16, 16),
        "encoder.block.0.layer.0.SelfAttention.o": (3, 16, 16),
        "encoder.block.0.layer.1.DenseReluDense.wi": (3, 16, 24),
        "encoder.block.0.layer.1.DenseReluDense.wo": (3, 24, 16),
    },
    ("llama", "LlamaForCausalLM"): {
        "model.layers.0.self_attn.q_proj": (3, 16, 16),
        "model.layers.0.self_attn.v_proj": (3, 16, 16),
        "model.layers.0.self_attn.o_proj": (3, 16, 16),
        "model.layers.0.mlp.up_proj": (3, 16, 24),
        "model.layers.0.mlp.down_proj": (3, 24, 16),
    },
}


@functools.cache
def adapted(family):
    """(config with adapters, parameters drawn at random)."""
    changes = {"attention__num_heads": 2, "feedforward__ff_dim": 24, "vocab_size": 96, "vocab_multiple": 1}
    if TABLE.load(family).base.attention.head_dim:
        changes["attention__head_dim"] = 8
    config = resized(TABLE.load(family).base, width=16, num_layers=2, **changes)
    config = dataclasses.replace(
        config, adapters=AdapterConfig(lora_rank=3, lora_alpha=6.0, lora_targets=EVERYWHERE)
    )
    rng = np.random.default_rng(0)
    flat = abstract_params(config, ("heads/mlm",) if family == "bert" else ())
    return config, {path: rng.normal(0, 0.2, leaf.shape).astype(np.float32) for path, leaf in flat.items()}


def saved(family, name, place):
    """(the adapter's config, its tensors) of the family's model, its base and the merged one beside it."""
    config, flat = adapted(family)
    plain = dataclasses.replace(config, adapters=AdapterConfig())
    base = {path: leaf for path, leaf in flat.items() if "lora_" not in path}
    save_folder(place / "base", family, plain, tree.unflatten(base))
    save_folder(place / "merged", family, *merge(config, tree.unflatten(flat)))
    save_adapter(place / "adapter", family, name, config, tree.unflatten(flat), str(place / "base"))
    (place / "adapter/adapter_model.safetensors").rename(place / "adapter" / SINGLE)
    tensors = dict(Tensors(place / "adapter").items())
    (place / "adapter" / SINGLE).rename(place / "adapter/adapter_model.safetensors")
    return json.loads((place / "adapter/adapter_config.json").read_text()), tensors


@pytest.mark.parametrize(("family", "name"), CASES)
def test_layers_and_their_updates(family, name, tmp_path):
    config, tensors = saved(family, name, tmp_path)
    shapes = {}
    for layer in config["target_modules"]:
        a, b = (tensors[f"base_model.model.{layer}.lora_{x}.weight"] for x in ("A", "B"))
        assert a.shape[0] == b.shape[1]
        shapes[layer] = (a.shape[0], a.shape[1], b.shape[0])
    assert len(tensors) == 2 * len(shapes) and shapes.items() >= CASES[family, name].items()
    ranks = {layer: rank for layer, (rank, _, _) in shapes.items()}
    found = {layer: config["rank_pattern"].get(layer, config["r"]) for layer in ranks}
    assert found == ranks and config["alpha_pattern"] == config["rank_pattern"]
    assert config["lora_alpha"] == config["r"] and config["fan_in_fan_out"] == (family == "gpt2")
    base, merged = Tensors(tmp_path / "base"), Tensors(tmp_path / "merged")
    changed = [key for key in base if not np.array_equal(base[key], merged[key])]
    assert set(changed) == {f"{layer}.weight" for layer in shapes}
    for layer in shapes:
        a, b = (tensors[f"base_model.model.{layer}.lora_{x}.weight"] for x in ("A", "B"))
        update = (b @ a).T if config["fan_in_fan_out"] else b @ a
        whole = base[f"{layer}.weight"] + update
        np.testing.assert_allclose(whole, merged[f"{layer}.weight"], atol=2e-6)


def test_a_class_without_a_head_has_no_prefix():
    config, flat = adapted("gpt2")
    names = [update.module for update in updates(TABLE.load("gpt2"), "GPT2Model", config, flat)]
    assert len(names) == 8 and set(names[:2]) == {"h.0.attn.c_proj", "h.1.attn.c_proj"}


@pytest.mark.parametrize(("family", "name"), list(CASES)[1:])
def test_peft_computes_the_same(family, name, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    saved(family, name, tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    tokens = np.random.default_rng(1).integers(0, 96, (2, 9))
    given = {"input_ids": torch.tensor(tokens)}
    order = np.broadcast_to(np.arange(9), tokens.shape)
    batch = {"tokens": tokens, "positions": order, "segments": np.ones_like(order)}
    if family == "t5":
        given["decoder_input_ids"] = given["input_ids"]
        batch = {prefix + key: value for prefix in ("encoder_", "decoder_") for key, value in batch.items()}
    config, flat = adapted(family)
    lm, params = Transformer(config), tree.unflatten(flat)["model"]

    @jax.jit
    def logits(params, batch):
        return lm.apply({"params": params}, lm.apply({"params": params}, batch), method="logits")

    with torch.no_grad():
        expected = theirs(**given).logits.numpy()
    found = np.asarray(logits(params, jax.tree.map(jnp.asarray, batch)))
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())


def test_models_without_lora_are_refused(tmp_path):
    config, flat = adapted("gpt2")
    for adapters in (AdapterConfig(), dataclasses.replace(config.adapters, prefix_length=2)):
        with pytest.raises(ConfigError, match="a run with adapt.method = 'lora' and without other adapters"):
            save_adapter(
                tmp_path,
                "gpt2",
                "GPT2Model",
                dataclasses.replace(config, adapters=adapters),
                tree.unflatten(flat),
                "",
            )


@pytest.mark.slow
def test_the_command(folder, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("tokenizers")
    size = folders.byte_pairs(tmp_path / "gpt2").get_vocab_size()
    changes = {"attention__num_heads": 2, "position__max_length": 32}
    config = resized(TABLE.load("gpt2").base, vocab_size=size, width=16, num_layers=1, **changes)
    folders.write(tmp_path / "gpt2", "gpt2", config)
    words = [*SHORT, "--config.adapt.method=lora"]
    assert finetune(folder, tmp_path / "run", *words, base=tmp_path / "gpt2") == 0
    capsys.readouterr()
    assert main(["convert", "adapter", str(tmp_path / "run"), str(tmp_path / "adapter")]) == 0
    out = capsys.readouterr().out
    assert "LoRA of 1 layers of GPT2LMHeadModel, such as transformer.h.0.attn.c_attn" in out
    assert "the head of classification is not included" in out
    values = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == str(tmp_path / "gpt2") and values["r"] == 16
    assert main(["convert", "adapter", str(tmp_path / "gpt2"), str(tmp_path / "other")]) == 64
    assert "adapt.method = 'lora'" in capsys.readouterr().err
    assert tlx.load(tmp_path / "run").config.model.adapters.lora_rank == 8
