"""Bare models, and directories without a tokenizer: what they can do works, the rest is one message."""

import copy
import importlib.util
import json

import numpy as np
import pytest

import tlx
from tests.hub import folders, task_cases
from tests.hub.cases_decoder import LLAMA
from tests.hub.cases_encoder import BERT
from tests.hub.task_cases import BART, T5
from tlx.base import tree
from tlx.base.errors import ConfigError, DataError
from tlx.cli import main
from tlx.hub.folder import open_folder, save_folder
from tlx.models.families import TABLE
from tlx.models.families.family import resized

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers", "tokenizers")):
    pytest.skip("needs torch and transformers (pip install -e '.[hf]' torch)", allow_module_level=True)

MODELS = {
    "LlamaModel": ("LlamaConfig", LLAMA),
    "MistralModel": ("MistralConfig", LLAMA),
    "GPT2Model": (
        "GPT2Config",
        {"vocab_size": 61, "n_positions": 30, "n_embd": 24, "n_layer": 1, "n_head": 3},
    ),
    "XLNetModel": ("XLNetConfig", task_cases.XLNET),
    "BertModel": ("BertConfig", BERT | {"num_hidden_layers": 1}),
    "BartModel": ("BartConfig", BART),
    "T5Model": ("T5Config", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "T5EncoderModel": ("T5Config", T5),
    "MT5EncoderModel": ("MT5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
}


def bare(name, **options):
    """Build a bare class with drawn weights."""
    import transformers

    config_class, config = MODELS[name]
    case = task_cases.TaskCase(name, config_class, config, "Q")
    if not options:
        return task_cases.make(case)
    return getattr(transformers, name)(
        getattr(transformers, config_class)(**copy.deepcopy(config)), **options
    ).eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_bare_model_is_read_and_written_again(name, tmp_path):
    import torch
    import transformers

    model = bare(name)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = open_folder(tmp_path / "theirs", ignore=("decoder_start_token_id",))
    assert checkpoint.config.kind == ("encoder" if "Encoder" in name else checkpoint.family.base.kind)
    written = save_folder(tmp_path / "ours", checkpoint.family, checkpoint.config, checkpoint.read())
    again = getattr(transformers, name).from_pretrained(tmp_path / "ours")
    if checkpoint.config.head.absent or "Encoder" in name:
        assert written == name
    after = again.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(after[key], value), key


def test_an_encoder_needs_no_pooler(tmp_path):
    bare("BertModel", add_pooling_layer=False).save_pretrained(tmp_path / "theirs")
    checkpoint = open_folder(tmp_path / "theirs")
    assert checkpoint.heads == ()
    assert save_folder(tmp_path / "ours", "bert", checkpoint.config, checkpoint.read()) == "BertModel"
    assert open_folder(tmp_path / "ours").heads == ()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """(folder, the class) of a bare decoder whose output layer would not be tied, with a tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("llama")
    size = folders.byte_pairs(folder, 300).get_vocab_size()
    config = transformers.LlamaConfig(**(LLAMA | {"vocab_size": size}))
    model = transformers.LlamaModel(config).eval()
    model.save_pretrained(folder)
    return folder, model


def test_a_bare_decoder_embeds_and_has_no_logits(llama, tmp_path):
    import torch

    folder, model = llama
    lm = tlx.load(folder)
    text = "the cat sat"
    ids = lm.tokenizer.encode(text)  # its template puts nothing before a text
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(lm.embed(text), wanted, atol=1e-5)
    for ask in (
        lambda: lm.score(text),
        lambda: lm.logits(ids),
        lambda: lm.generate(text),
        lambda: lm.choose(text, ["a", "b"]),
    ):
        with pytest.raises(ConfigError, match="bare model without an output layer: it can embed texts"):
            ask()
    assert main(["convert", "import", str(folder), str(tmp_path / "run")]) == 0
    np.testing.assert_array_equal(tlx.load(tmp_path / "run").embed(text), lm.embed(text))


def test_what_lacks_more_than_a_bare_model_is_damaged(llama, tmp_path):
    """A class that has an output layer must have its tensor."""
    import shutil

    shutil.copytree(llama[0], tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(DataError, match="lm_head.weight is missing"):
        open_folder(tmp_path / "copy")


@pytest.mark.slow
def test_without_a_tokenizer_there_are_ids(tmp_path, capsys):
    base = TABLE.load("gpt2").base
    config = resized(base, vocab_size=90, width=16, num_layers=1, attention__num_heads=2)
    (tmp_path / "theirs").mkdir()
    folders.write(tmp_path / "theirs", "gpt2", config)
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [7, 8], "pad_token_id": 3}))
    lm = tlx.load(tmp_path / "theirs")
    assert "no tokenizer: the model reads and writes ids" in capsys.readouterr().err
    vocab = lm.tokenizer.vocab
    assert (vocab.pad, vocab.eos, vocab.size - vocab.added) == (3, 7, 90)
    assert lm.logits([10, 11]).shape == (1, 2, 90)
    for ask in (lambda: lm.embed("a"), lambda: lm.generate("a"), lambda: lm.score("a")):
        with pytest.raises(ConfigError, match="imported from a directory without a tokenizer: it reads and"):
            ask()
    assert main(["convert", "import", str(tmp_path / "theirs"), str(tmp_path / "run")]) == 0
    run = tlx.load(tmp_path / "run")
    assert run.tokenizer.vocab == vocab
    np.testing.assert_array_equal(run.logits([10, 11]), lm.logits([10, 11]))
    assert main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "back")]) == 0
    before, after = (open_folder(tmp_path / name).read() for name in ("theirs", "back"))
    for name, value in tree.flatten(before).items():
        np.testing.assert_array_equal(tree.flatten(after)[name], value)
    # Files of a slow tokenizer alone are there: how to convert them is said.
    (tmp_path / "theirs" / "vocab.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"has no tokenizer.json; .*\n.*save_pretrained"):
        tlx.load(tmp_path / "theirs")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["T5EncoderModel", "T5Model"])
def test_an_encoder_decoder_without_sentinels(name, tmp_path):
    """It is loaded with a tokenizer that has none, and embeds as the class does."""
    import torch
    import transformers

    ids = folders.with_end(tmp_path)
    size = 302
    changes = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "vocab_size": size, **ids}
    model = getattr(transformers, name)(transformers.T5Config(**(T5 | changes))).eval()
    model.save_pretrained(tmp_path)
    # The class of transformers 5 ties what version 1.1 does not.
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))
    lm = tlx.load(tmp_path)
    assert lm.tokenizer.vocab.num_sentinels == 0
    tokens = lm.tokenizer.encode("the cat sat")
    frame = lm.frame.named()
    prefix, suffix = frame.before, frame.after
    with torch.no_grad():
        encoder = model if "Encoder" in name else model.encoder
        hidden = encoder(torch.tensor([[*prefix, *tokens, *suffix]])).last_hidden_state[0].numpy()
    hidden = hidden[len(prefix) : len(prefix) + len(tokens)]
    np.testing.assert_allclose(lm.embed("the cat sat"), hidden.mean(axis=0), atol=1e-5)
    if "Encoder" not in name:
        with pytest.raises(ConfigError, match="bare model without an output layer"):
            lm.generate("the cat")
    else:
        with pytest.raises(ConfigError, match="mlm predicts with heads/mlm, which it lacks"):
            lm.logits(tokens)
