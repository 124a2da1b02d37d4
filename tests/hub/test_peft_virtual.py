"""Prefixes and prompts for peft: their form, and peft itself on the same base where it is."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlx
from tests import run_directory
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.cli import main
from tlx.hub import peft
from tlx.hub.folder import save_folder
from tlx.hub.network import abstract_params
from tlx.hub.peft_virtual import save_virtual_tokens
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.models.transformer import Transformer
from tlx.nn.config import AdapterConfig

BEGIN, SIZE, VOCAB = 7, 3, 96
NAMES = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}
CASES = [("llama", "prefix"), ("llama", "prompt"), ("gpt2", "prompt")]


@functools.cache
def adapted(family, slot):
    """(config with the slot, parameters drawn at random); llama's keys are shared by two heads."""
    changes = {"attention__num_heads": 4, "feedforward__ff_dim": 24, "vocab_size": VOCAB, "vocab_multiple": 1}
    if family == "llama":
        changes["attention__num_kv_heads"] = 2
    config = resized(TABLE.load(family).base, width=32, num_layers=2, **changes)
    config = dataclasses.replace(config, adapters=AdapterConfig(**{f"{slot}_length": SIZE}))
    rng = np.random.default_rng(0)
    return config, {
        path: rng.normal(0, 0.3, leaf.shape).astype(np.float32)
        for path, leaf in abstract_params(config, ()).items()
    }


def saved(family, slot, place):
    config, flat = adapted(family, slot)
    base = {
        path: leaf for path, leaf in flat.items() if "prefix/" not in path and not path.endswith("/prompt")
    }
    save_folder(
        place / "base", family, dataclasses.replace(config, adapters=AdapterConfig()), tree.unflatten(base)
    )
    number = save_virtual_tokens(
        place / "adapter", config, tree.unflatten(flat), str(place / "base"), (BEGIN,)
    )
    return number, json.loads((place / "adapter/adapter_config.json").read_text())


@pytest.mark.parametrize(("family", "slot"), CASES)
def test_adapter_config(family, slot, tmp_path):
    number, values = saved(family, slot, tmp_path)
    assert number == values["num_virtual_tokens"] == SIZE + (slot == "prompt")
    assert values["peft_type"] == f"{slot.upper()}_TUNING" and values["num_layers"] == 2
    assert (values["token_dim"], values["num_attention_heads"]) == ((16, 2) if slot == "prefix" else (32, 4))


@pytest.mark.parametrize(("family", "slot"), CASES)
def test_peft_computes_the_same(family, slot, tmp_path):
    theirs = pytest.importorskip("peft", reason="peft is not installed").PeftModel
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    saved(family, slot, tmp_path)
    base = getattr(transformers, NAMES[family]).from_pretrained(tmp_path / "base")
    theirs = theirs.from_pretrained(base, tmp_path / "adapter").eval()
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, 9))
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
    if slot == "prompt":  # what tlx reads: the first id, the prompt's, the text
        ids = [BEGIN, *range(VOCAB, VOCAB + SIZE)]
        tokens = np.concatenate([np.tile(ids, (2, 1)), tokens], axis=1)
    order = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    batch = {"tokens": tokens, "positions": order, "segments": np.ones_like(order)}
    config, flat = adapted(family, slot)
    lm, params = Transformer(config), tree.unflatten(flat)["model"]

    @jax.jit
    def logits(params, batch):
        return lm.apply({"params": params}, lm.apply({"params": params}, batch), method="logits")

    found = np.asarray(logits(params, jax.tree.map(jnp.asarray, batch)))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("family", "adapters", "message"),
    [
        ("gpt2", {"prefix_length": 2}, "with learned positions that is another text than ours"),
        ("mistral", {"prefix_length": 2}, "leaves the attention window of a layer"),
        ("gemma3", {"prompt_length": 2}, "scales, projects or normalises its embeddings first"),
        ("bert", {"prompt_length": 2}, "only a decoder's can be exported"),
        ("llama", {"prompt_length": 2, "lora_rank": 2}, "a prefix or a prompt and without other adapters"),
    ],
)
def test_unrepresentable_virtual_tokens_are_refused(family, adapters, message, tmp_path):
    config = dataclasses.replace(TABLE.load(family).base, adapters=AdapterConfig(**adapters))
    with pytest.raises(ConfigError, match=message):
        save_virtual_tokens(tmp_path / "adapter", config, {}, "", (BEGIN,))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.long
@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    config = run_directory.tiny_config("clm")
    model = dataclasses.replace(config.model, adapters=AdapterConfig(prompt_length=SIZE))
    monkeypatch.setattr(run_directory, "tiny_config", lambda name: dataclasses.replace(config, model=model))
    run_directory.write_run(tmp_path / "run", "clm")
    assert main(["convert", "adapter", str(tmp_path / "run"), str(tmp_path / "adapter")]) == 0
    bos = tlx.load(tmp_path / "run").tokenizer.vocab.bos
    message = f"4 virtual tokens, the beginning of a text (id {bos}, which inputs must leave out)"
    assert message in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {peft.CONFIG, peft.TENSORS}
