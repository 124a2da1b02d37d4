"""A run of tlx, exported, writes in transformers what it writes here: the frame goes out with the model."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest

import tlx
from tests.tiers import tiers
from tlx import parallel
from tlx.base.config import to_dict
from tlx.checkpoint import Checkpoints
from tlx.cli import main
from tlx.models.families import TABLE as FAMILIES
from tlx.models.families.family import resized
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.run.spec import abstract_batch, make_module, spec_of
from tlx.text import make_tokenizer
from tlx.training import directory
from tlx.training.state import boxed_params

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
    pytest.skip("needs torch and transformers (pip install -e '.[hf]' torch)", allow_module_level=True)

MAX_TOKENS = 10
SIZES = {"width": 32, "num_layers": 1, "attention__num_heads": 4, "feedforward__ff_dim": 128}
# Objective -> family of its export.
CASES = {"bart": "bart", "mbart": "mbart", "span_corruption": "t5", "ctrl": "ctrl", "xlm": "xlm"}


def write_run(folder, objective, family):
    """A run with random parameters, of a model that a class of transformers computes."""
    config = base_config(objective)
    config.tokenizer.kind = "bytes"
    config.data.sequence_length = 32
    config.data.language = "en"
    config.data.target_language = "ko"
    changes = {"num_decoder_layers": 1} if objective in ("bart", "mbart", "span_corruption") else {}
    if objective == "span_corruption":
        changes["attention__head_dim"] = 8
    if objective == "xlm":
        changes["embedding__num_languages"] = 2
    model = resized(FAMILIES.load(family).base, vocab_size=0, **SIZES, **changes)
    if model.position.kind == "learned":
        model = resized(model, position__max_length=64)
    values = config.to_dict() | {"model": to_dict(model)}
    config = resolve(values)
    tokenizer = make_tokenizer(config.tokenizer, ())
    batch = abstract_batch(config, spec_of(config, tokenizer))
    shapes = parallel.unbox(boxed_params(make_module(config, tokenizer.vocab), batch))
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        normal = rng.normal(size=leaf.shape)
        if "norm" in name and "scale" in name:
            return (1 + 0.1 * normal).astype(np.float32)
        # A table as large as the layers would write one token for ever, which is likest itself; so would a bias.
        is_small = "table" in name or "output" in name or "norm" in name
        return ((0.05 if is_small else 0.6) * normal).astype(np.float32)

    params = jax.tree.map_with_path(draw, shapes)
    folder.mkdir()
    tokenizer.save(folder / "tokenizer")
    directory.write_run(folder, to_dict(config), tokenizer.hash, {"fingerprint": "none"}, {"data": 1}, 1)
    with Checkpoints(folder / "checkpoints", dataclasses.replace(config.checkpoint, keep=1)) as checkpoints:
        checkpoints.prepare()
        checkpoints.save(1, {"params": params})
        checkpoints.wait()
    return folder


@pytest.mark.parametrize("objective", tiers(CASES, quick=(), slow=("bart", "ctrl")))
def test_an_export_writes_the_same_greedy_text(objective, tmp_path, monkeypatch):
    import torch
    import transformers

    run, out = write_run(tmp_path / "run", objective, CASES[objective]), tmp_path / "out"
    assert main(["convert", "export", str(run), str(out), f"--family={CASES[objective]}"]) == 0
    lm = tlx.load(run)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(out)
    text = "the cat sat"
    if objective == "xlm":
        model = transformers.XLMWithLMHeadModel.from_pretrained(out).eval()
        ids = tokenizer(text[:-1] + "<mask>", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(ids, langs=torch.full_like(ids, 1)).logits[0]
        (gap,) = (ids[0] == lm.tokenizer.vocab.mask).nonzero()[0].tolist()
        scores = np.where(lm.tokenizer.vocab.special, -np.inf, logits[gap, : lm.tokenizer.vocab.size].numpy())
        (candidates,) = lm.fill(text[:-1] + "[MASK]", top=5, language="ko")
        assert [c.piece for c in candidates] == [lm.tokenizer.decode([i]) for i in np.argsort(-scores)[:5]]
        # And back: the names of the languages come with the directory.
        assert tlx.load(out).frame.marks == (("en", 0), ("ko", 1))
        (back,) = tlx.load(out).fill(text[:-1] + "[MASK]", top=5, language="ko")
        assert [c.piece for c in back] == [c.piece for c in candidates]
        return
    name = transformers.AutoConfig.from_pretrained(out).architectures[0]
    model = getattr(transformers, name).from_pretrained(out).eval()
    prompt = text + ("<extra_id_0>" if objective == "span_corruption" else "")
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    begun = len(lm.frame.begin)
    with torch.no_grad():
        found = model.generate(ids, max_new_tokens=MAX_TOKENS + begun, do_sample=False, num_beams=1)[
            0
        ].tolist()
    lead = 1 + begun if lm.kind == "encoder_decoder" else ids.shape[1]
    wanted = found[lead:]
    eos = lm.tokenizer.vocab.eos
    wanted = wanted[: wanted.index(eos)] if eos in wanted else wanted
    monkeypatch.setattr(type(lm), "_decode_answer", lambda self, prompt, tokens, marks: tokens)
    ours = lm.generate(prompt, max_tokens=MAX_TOKENS, temperature=0)
    assert ours == wanted and len(set(ours)) > 1
    back = tlx.load(out)
    assert back.generate(prompt, max_tokens=MAX_TOKENS, temperature=0) == wanted
    if objective == "bart":
        # In the form of T5, as it was before, the text is another one.
        assert json.loads((out / "config.json").read_text())["decoder_start_token_id"] == eos
        wrong = dataclasses.replace(lm.frame, before=(), start=(lm.tokenizer.vocab.bos,), begin=())
        other = dataclasses.replace(lm, config=dataclasses.replace(lm.config, frame=wrong))
        assert other.generate(prompt, max_tokens=MAX_TOKENS, temperature=0) != wanted


@pytest.mark.slow
def test_a_tokenizer_without_bos_gets_none_invented(tmp_path):
    """Qwen has no bos: its log-likelihood is that of transformers for the text after the end of another."""
    import torch
    import transformers

    from tests.hub import folders

    folders.byte_pairs(tmp_path)
    # As Qwen's files: an end, and no beginning.
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    model = transformers.Qwen3ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    lm = tlx.load(tmp_path)
    text = "the cat sat on the mat"
    ids = lm.tokenizer.encode(text)
    eos = lm.tokenizer.vocab.eos
    with torch.no_grad():
        logits = model(torch.tensor([[eos, *ids]])).logits[0, :-1]
        (written,) = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
        # As it was before: an id that the model lacks, whose row is 0.
        vectors = model.get_input_embeddings()(torch.tensor([[eos, *ids]]))
        vectors[0, 0] = 0
        invented = model(inputs_embeds=vectors).logits[0, :-1]

    def log_likelihood(logits):
        return float(logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum())

    wanted = log_likelihood(logits)
    print(f"\nafter an end {wanted:.1f}, after an invented id {log_likelihood(invented):.1f}")
    assert lm.score(text).log_likelihood == pytest.approx(wanted, rel=1e-4)
    assert abs(log_likelihood(invented) / wanted - 1) > 0.01
    generated = lm.generate(text, max_tokens=8, temperature=0)
    assert generated == lm.tokenizer.decode(written.tolist()[len(ids) :])
    assert lm.tokenizer.vocab.bos >= 304 - lm.tokenizer.vocab.added or lm.tokenizer.vocab.added
    assert lm.num_tokens(text, [" x"]) == len(lm.tokenizer.encode(text + " x"))
