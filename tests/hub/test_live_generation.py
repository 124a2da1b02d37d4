"""Texts under a model's own rules, token for token those of transformers.generate, where torch is installed."""

import importlib.util
import json

import numpy as np
import pytest

import tlx
from tests.hub import folders
from tlx.decode.beam import beam_search
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.text.generation_rules import rules_of

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
    pytest.skip("needs torch and transformers (pip install -e '.[hf]' torch)", allow_module_level=True)

MAX_TOKENS = 12
SIZES = {"vocab_size": 300, "initializer_range": 0.4}
PROMPTS = [[5, 9, 7, 11, 5, 9], [40, 41]]
SOURCES = [[20, 21, 22, 23, 24, 1], [60, 61, 60, 61, 1]]


def llama(transformers):
    config = transformers.LlamaConfig(
        **SIZES,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


def bart(transformers):
    config = transformers.BartConfig(
        vocab_size=300,
        init_std=0.4,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        pad_token_id=3,
        eos_token_id=1,
    )
    return transformers.BartForConditionalGeneration(config)


def written(model, values, num_beams, row):
    """New tokens of transformers, up to the first end, where it is the model's own."""
    import torch
    from transformers import GenerationConfig

    start = [2] if model.config.is_encoder_decoder else PROMPTS[row]
    config = GenerationConfig(
        **values, pad_token_id=3, max_new_tokens=MAX_TOKENS, num_beams=num_beams, do_sample=False
    )
    given = {"decoder_input_ids": torch.tensor([start])} if model.config.is_encoder_decoder else {}
    source = SOURCES[row] if model.config.is_encoder_decoder else start
    model.generation_config = GenerationConfig()  # nothing of its own
    with torch.no_grad():
        (ids,) = model.generate(torch.tensor([source]), generation_config=config, **given)
    tokens = ids.tolist()[len(start) :]
    ends = values.get("eos_token_id", [])
    stops = [i for i, token in enumerate(tokens) if token in (ends if isinstance(ends, list) else [ends])]
    return tokens[: min(stops, default=len(tokens))]


def opened(model, folder, values):
    """The model and its rules as tlx reads them."""
    folders.byte_pairs(folder)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(values))
    return tlx.load(folder)


@pytest.mark.parametrize("make", [llama, bart])
def test_texts_obey_the_rules_as_in_transformers(make, tmp_path):
    import torch
    import transformers

    torch.manual_seed(0)
    model = make(transformers).eval()
    free = [written(model, {"eos_token_id": 299}, 1, row) for row in range(2)]
    assert free[0] != free[1] and len(set(free[0])) > 4
    ends = {"eos_token_id": [free[0][6], free[1][3]]}
    cases = [
        ends,
        ends
        | {"min_new_tokens": 8, "bad_words_ids": [[free[0][0]], free[1][1:3], [ends["eos_token_id"][0]]]},
        ends
        | {
            "forced_bos_token_id": 17,
            "forced_eos_token_id": ends["eos_token_id"][1],
            "min_length": 5,
            "no_repeat_ngram_size": 2,
            "encoder_no_repeat_ngram_size": 1 if make is bart else 0,
            "suppress_tokens": [free[0][1]],
        },
    ]
    lm = opened(model, tmp_path, ends)
    differ = set()
    for values in cases:
        (tmp_path / "generation_config.json").write_text(json.dumps(values))
        rules = rules_of(type(lm.tokenizer).from_folder(tmp_path))
        given = {"max_tokens": MAX_TOKENS, "rules": rules}
        prompts = [[2], [2]] if make is bart else PROMPTS
        if make is bart:
            given["sources"] = SOURCES
        parts = (lm.network, lm.params["model"], prompts, lm.tokenizer.vocab)
        greedy = generate(*parts, sampling=Sampling(temperature=0), **given)
        beams = beam_search(*parts, num_beams=3, **given)
        for row in range(2):
            assert greedy[row] == written(model, values, 1, row), values
            assert beams[row][0].tokens == written(model, values, 3, row), values
        differ.add(str(greedy))
    assert len(differ) == len(cases)


def test_a_model_that_likes_its_pad_translates(tmp_path):
    """Marian's pad has the logit 0, above all others; config.json forbids it by bad_words_ids."""
    import torch
    import transformers

    torch.manual_seed(0)
    ids = folders.with_end(tmp_path)
    config = transformers.MarianConfig(
        vocab_size=1 + max(ids.values()),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        forced_eos_token_id=ids["eos_token_id"],
        **ids,
    )
    model = transformers.MarianMTModel(config).eval()
    pad = ids["pad_token_id"]
    with torch.no_grad():
        model.model.shared.weight[pad] = 0
        model.final_logits_bias[:] = -6.0
        model.final_logits_bias[0, pad] = 0
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    path = tmp_path / "config.json"
    # as the released files have it
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bad_words_ids": [[pad]], "num_beams": 4}))
    lm = tlx.load(tmp_path)
    assert lm.tokenizer.vocab.pad == lm.tokenizer.vocab.bos == pad
    source = [*lm.tokenizer.encode("the cat sat"), ids["eos_token_id"]]
    with torch.no_grad():
        options = dict(max_new_tokens=8, do_sample=False, num_beams=1, bad_words_ids=[[pad]])
        (wanted,) = model.generate(torch.tensor([source]), **options)
    wanted = wanted.tolist()[1:]
    assert pad not in wanted and wanted[-1] == ids["eos_token_id"]
    assert lm.generate("the cat sat", max_tokens=8, temperature=0) == lm.tokenizer.decode(wanted[:-1]) != ""


def test_logits_of_a_text_that_holds_the_pad_id(tmp_path):
    import torch
    import transformers

    torch.manual_seed(0)
    model = llama(transformers).eval()
    folders.byte_pairs(tmp_path)
    names = {f"{role}_token": "<|end|>" for role in ("pad", "bos", "eos", "unk")}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    model.save_pretrained(tmp_path)
    lm = tlx.load(tmp_path)
    assert lm.tokenizer.vocab.pad == lm.tokenizer.vocab.eos == 0
    ids = [0, *lm.tokenizer.encode("the cat"), 0, *lm.tokenizer.encode("sat on"), 0]
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    found = lm.logits([ids, ids[:3]])
    assert np.abs(found[0, :, :300] - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.abs(found[1, :3, :300] - wanted[:3]).max() < 1e-4 * np.abs(wanted).max()
