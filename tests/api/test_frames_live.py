"""A run of tlx, exported, writes in transformers what it writes here: the frame goes out with the model."""

import dataclasses
import importlib.util
import json
from typing import NamedTuple

import jax
import numpy as np
import pytest

import tlx
from tests.hub import folders
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


@pytest.mark.parametrize("objective", tiers(CASES, quick=(), slow=("bart",)))
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


def _qwen2(folder, transformers):
    """Qwen's files name an end and no beginning; its table has rows that no piece uses."""
    folders.byte_pairs(folder)
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    config = transformers.Qwen2Config(
        vocab_size=NUM_ROWS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return transformers.Qwen2ForCausalLM(config)


def _gpt2(folder, transformers):
    """GPT-2's beginning is its end, which its tokenizer puts nowhere."""
    folders.byte_pairs(folder)
    config = transformers.GPT2Config(
        vocab_size=NUM_ROWS,
        n_embd=32,
        n_layer=1,
        n_head=4,
        n_positions=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return transformers.GPT2LMHeadModel(config)


# Rows of the table: 300 pieces of the tokenizer, and some that no text has.
NUM_ROWS = 304
TEXT = "the cat sat on the mat"
CHOICES = (" and", " on the mat")


class Answers(NamedTuple):
    """What text calls say."""

    logits: np.ndarray
    """Of all rows of the table that the model has, at each position of TEXT."""
    log_likelihood: float
    """Of TEXT after the end of another text."""
    choices: list[float]
    """Log-likelihood of each of CHOICES after TEXT."""
    embedding: np.ndarray
    """Mean of the last hidden states of TEXT."""
    greedy: str
    """Continuation of TEXT."""


def _answers(lm):
    return Answers(
        logits=lm.logits(lm.tokenizer.encode(TEXT))[0, :, :NUM_ROWS],
        log_likelihood=lm.score(TEXT).log_likelihood,
        choices=[score.log_likelihood for score in lm.choose(TEXT, CHOICES).scores],
        embedding=lm.embed(TEXT),
        greedy=lm.generate(TEXT, max_tokens=8, temperature=0),
    )


def _answers_of_transformers(model, tokenizer):
    import torch

    ids = tokenizer.encode(TEXT)

    def log_probs(before, written):
        """Log-probability of each id of `written`."""
        logits = model(torch.tensor([[*before, *written]])).logits[0, len(before) - 1 : -1]
        return logits.log_softmax(-1)[torch.arange(len(written)), torch.tensor(written)]

    with torch.no_grad():
        output = model(torch.tensor([ids]), output_hidden_states=True)
        (written,) = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False).tolist()
        return Answers(
            logits=output.logits[0].numpy(),
            log_likelihood=float(log_probs([tokenizer.vocab.eos], ids).sum()),
            choices=[float(log_probs(ids, tokenizer.encode(choice)).sum()) for choice in CHOICES],
            embedding=output.hidden_states[-1][0].mean(0).numpy(),
            greedy=tokenizer.decode(written[len(ids) :]),
        )


def _assert_equal(found, wanted, rtol=1e-4):
    for name in ("logits", "log_likelihood", "choices", "embedding"):
        found_array, wanted_array = (np.asarray(getattr(answers, name)) for answers in (found, wanted))
        np.testing.assert_allclose(found_array, wanted_array, rtol=rtol, atol=rtol, err_msg=name)
    assert found.greedy == wanted.greedy and found.greedy


@pytest.mark.slow
@pytest.mark.parametrize("make", [_qwen2, _gpt2])
def test_no_text_call_puts_an_invented_id_before_a_text(make, tmp_path):
    """All answers are those of transformers, whatever stands in the rows of ids that no text has."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = make(tmp_path, transformers).eval()
    num_pieces = 300
    with torch.no_grad():
        model.get_input_embeddings().weight[num_pieces:] = 0
    model.save_pretrained(tmp_path)
    lm = tlx.load(tmp_path)
    answers = _answers(lm)
    _assert_equal(answers, _answers_of_transformers(model, lm.tokenizer))
    table = np.array(lm.params["model"]["embedding"]["table"])
    assert not table[num_pieces:].any()
    table[num_pieces:] = np.random.default_rng(0).normal(size=table[num_pieces:].shape)
    embedding = {**lm.params["model"]["embedding"], "table": table}
    params = {**lm.params, "model": {**lm.params["model"], "embedding": embedding}}
    _assert_equal(_answers(dataclasses.replace(lm, params=params)), answers, rtol=1e-6)
    assert lm.num_tokens(TEXT, CHOICES) == len(lm.tokenizer.encode(TEXT + CHOICES[1]))
    # With an id in front, as it was before, the log-likelihood is another one.
    bos = lm.tokenizer.vocab.bos if make is _qwen2 else num_pieces
    wrong = dataclasses.replace(lm.frame, before=(bos,), start=(bos,))
    other = _answers(dataclasses.replace(lm, config=dataclasses.replace(lm.config, frame=wrong)))
    print(f"\n{answers.log_likelihood:.1f} nats, after an invented id {other.log_likelihood:.1f}")
    assert abs(other.log_likelihood / answers.log_likelihood - 1) > 0.01
    assert not np.allclose(other.embedding, answers.embedding, rtol=0.01)
