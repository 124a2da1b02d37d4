"""`tlx convert`: a directory in, trained further or not, and a directory out."""

import json
import shutil

import numpy as np
import pytest

import tlx
from tests.hub import folders
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.cli import main
from tlx.hub.safetensors import Tensors
from tlx.models.families import TABLE
from tlx.models.families.family import resized

pytest.importorskip("tokenizers")


def bert(folder, heads=("heads/mlm", "heads/nsp")):
    size = folders.word_pieces(folder).get_vocab_size()
    base = TABLE.load("bert").base
    config = resized(
        base, vocab_size=size, width=16, num_layers=2, attention__num_heads=2, feedforward__hidden=24
    )
    folders.write(folder, "bert", config, heads)


def gpt2(folder):
    size = folders.byte_pairs(folder).get_vocab_size()
    base = TABLE.load("gpt2").base
    config = resized(
        base, vocab_size=size, width=16, num_layers=2, attention__num_heads=2, feedforward__hidden=24
    )
    folders.write(folder, "gpt2", config)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_in_and_out_again(make, tmp_path, capsys):
    theirs, run, back = tmp_path / "theirs", tmp_path / "run", tmp_path / "back"
    make(theirs)
    assert main(["convert", "import", str(theirs), str(run)]) == 0
    assert "parameters" in capsys.readouterr().out
    assert main(["convert", "export", str(run), str(back)]) == 0
    before, after = Tensors(theirs), Tensors(back)
    assert set(before) == set(after)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (theirs, back))
    assert {key: new[key] for key in old} == old
    assert (back / "tokenizer.json").read_bytes() == (theirs / "tokenizer.json").read_bytes()


def test_loading_a_directory_is_loading_its_import(tmp_path):
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    bert(theirs)
    direct = tlx.load(theirs)
    assert main(["convert", "import", str(theirs), str(run)]) == 0
    shutil.rmtree(theirs)
    imported = tlx.load(run)
    for path, value in tree.flatten(direct.params).items():
        np.testing.assert_array_equal(tree.flatten(imported.params)[path], value)
    assert imported.tokenizer.hash == direct.tokenizer.hash
    assert [c.piece for c in direct.fill("the [MASK] sat")[0]] == [
        c.piece for c in imported.fill("the [MASK] sat")[0]
    ]


def test_a_bare_model_says_that_it_has_no_head(tmp_path):
    bert(tmp_path / "bare", ("heads/nsp/pooler",))
    lm = tlx.load(tmp_path / "bare")
    for ask in (lambda: lm.fill("the [MASK] sat"), lambda: lm.score("the cat"), lambda: lm.logits([9, 10])):
        with pytest.raises(ConfigError, match="mlm predicts with heads/mlm, which it lacks"):
            ask()


def test_a_decoder_generates_what_it_never_added(tmp_path):
    gpt2(tmp_path / "theirs")
    lm = tlx.load(tmp_path / "theirs")
    assert lm.tokenizer.vocab.added == 4
    assert lm.logits(lm.tokenizer.encode("the cat")).shape[-1] == lm.tokenizer.vocab.size - 4
    assert isinstance(lm.generate("the cat", max_tokens=4, temperature=0), str)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("hidden_act", "mish", "hidden_act = 'mish'"),
        ("position_embedding_type", "relative_key", "position_embedding_type"),
        ("quantization_config", {"bits": 4}, "quantization_config"),
        ("rope_scaling", {"type": "yarn"}, "rope_scaling"),
        ("hidden_size", 24, ", 16), the model needs ("),
        ("model_type", "nobody", "model_type = 'nobody'"),
    ],
)
def test_what_cannot_be_represented_is_named(key, value, message, tmp_path, capsys):
    bert(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert main(["convert", "import", str(tmp_path / "theirs"), str(tmp_path / "run")]) == 64
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_a_pickle_is_refused_with_the_command(tmp_path, capsys):
    bert(tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").rename(tmp_path / "theirs" / "pytorch_model.bin")
    assert main(["convert", "import", str(tmp_path / "theirs"), str(tmp_path / "run")]) == 64
    assert "save_pretrained" in capsys.readouterr().err


def test_a_target_that_is_not_empty_is_refused(tmp_path, capsys):
    bert(tmp_path / "theirs")
    assert main(["convert", "import", str(tmp_path / "theirs"), str(tmp_path / "theirs")]) == 64
    assert "not empty" in capsys.readouterr().err
