"""`tlx convert`: a directory in, trained further or not, and a directory out."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import tlx
from tests.hub import folders
from tests.make_golden_run import FOLDER, unpack
from tests.text.test_imported_sentencepiece import OF_T5, train
from tlx.base import tree
from tlx.base.errors import ConfigError, DeviceMemoryError
from tlx.base.memory import available_bytes, size_text
from tlx.cli import main
from tlx.hub import folder as hub_folder
from tlx.hub.safetensors import Tensors
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.text.imported_sentencepiece import ImportedSentencePiece

pytest.importorskip("tokenizers")


def bert(folder, heads=("heads/mlm", "heads/nsp")):
    size = folders.word_pieces(folder).get_vocab_size()
    base = TABLE.load("bert").base
    config = resized(
        base, vocab_size=size, width=16, num_layers=2, attention__num_heads=2, feedforward__ff_dim=24
    )
    folders.write(folder, "bert", config, heads)


def gpt2(folder):
    size = folders.byte_pairs(folder).get_vocab_size()
    base = TABLE.load("gpt2").base
    config = resized(
        base, vocab_size=size, width=16, num_layers=2, attention__num_heads=2, feedforward__ff_dim=24
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


@pytest.mark.slow
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


def test_the_size_is_said_first_and_must_fit_the_memory(tmp_path, monkeypatch, capsys):
    gpt2(tmp_path / "theirs")
    size = sum(leaf.nbytes for leaf in tree.flatten(tlx.load(tmp_path / "theirs").params).values())
    assert f"parameters, {size_text(size)}" in capsys.readouterr().err
    assert available_bytes() > 1e6
    monkeypatch.setattr(hub_folder, "available_bytes", lambda: size - 1)
    with pytest.raises(DeviceMemoryError, match=r"needs \d+ kB of memory, \d+ kB are free; .*bfloat16"):
        tlx.load(tmp_path / "theirs")
    monkeypatch.setattr(hub_folder, "available_bytes", lambda: size)
    assert tlx.load(tmp_path / "theirs").num_params


@pytest.mark.parametrize(
    "damage, message",
    [
        ("missing", "transformer.h.1.mlp.c_fc.weight is missing"),
        ("left over", "1 tensors are not part of the family gpt2: somebody.else"),
        ("cut short", "truncated"),
    ],
)
def test_damaged_weights_are_named(damage, message, tmp_path, capsys):
    gpt2(tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    content = path.read_bytes()
    name = b'"transformer.h.1.mlp.c_fc.weight"'
    if damage == "missing":
        content = content.replace(name, name.replace(b"c_fc", b"fc_c"))
    if damage == "left over":
        length = int.from_bytes(content[:8], "little")
        more = b'{"somebody.else": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, '
        header = more + content[8 : 8 + length].removeprefix(b"{")
        content = len(header).to_bytes(8, "little") + header + content[8 + length :]
    path.write_bytes(content[:-4] if damage == "cut short" else content)
    assert main(["convert", "import", str(tmp_path / "theirs"), str(tmp_path / "run")]) == 64
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


@pytest.mark.slow
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


def test_a_source_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["convert", "import", str(tmp_path / "absent"), str(tmp_path / "run")]) != 0
    message = capsys.readouterr().err
    assert "absent is not there" in message and message.count("\n") == 1


def test_a_target_that_is_not_empty_is_refused(tmp_path, capsys):
    bert(tmp_path / "theirs")
    assert main(["convert", "import", str(tmp_path / "theirs"), str(tmp_path / "theirs")]) == 64
    assert "not empty" in capsys.readouterr().err


def bart(folder):
    size = folders.byte_pairs(folder).get_vocab_size()
    config = resized(
        TABLE.load("bart").base,
        **{"vocab_size": size, "width": 16, "num_layers": 2, "attention__num_heads": 2},
        feedforward__ff_dim=24,
    )
    folders.write(folder, "bart", config)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder_start_token_id": 7}))
    # Its own frame: <|end|> on both sides of a text.
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    end = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [end, {"Sequence": {"id": "A", "type_id": 0}}, end],
        "pair": [end, {"Sequence": {"id": "A", "type_id": 0}}, end, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.slow
def test_an_encoder_decoder_begins_and_frames_as_its_files_say(tmp_path):
    theirs, run, back = tmp_path / "theirs", tmp_path / "run", tmp_path / "back"
    bart(theirs)
    assert main(["convert", "import", str(theirs), str(run)]) == 0
    direct, imported = tlx.load(theirs), tlx.load(run)
    for lm in (direct, imported):
        assert lm.tokenizer.vocab.bos == 7 and lm.config.objective.name == "bart"
        assert lm.tokenizer.frame == ([0], [0])
    asked = {"max_tokens": 6, "num_beams": 3}
    found = direct.generate(["the cat", "3 Katzen"], **asked)
    assert imported.generate(["the cat", "3 Katzen"], **asked) == found
    assert direct.generate("the cat", begin="mat", **asked) != found[0]
    assert main(["convert", "export", str(run), str(back)]) == 0
    assert json.loads((back / "config.json").read_text())["decoder_start_token_id"] == 7


@pytest.mark.slow
def test_a_sentencepiece_model_is_enough_of_a_tokenizer(tmp_path):
    theirs, run, back = tmp_path / "theirs", tmp_path / "run", tmp_path / "back"
    theirs.mkdir()
    (theirs / "spiece.model").write_bytes(train(**OF_T5))
    size = ImportedSentencePiece.from_folder(theirs, "t5").vocab.size - 4
    small = {"vocab_size": size, "width": 16, "num_layers": 1, "num_decoder_layers": 1}
    config = resized(TABLE.load("t5").base, **small, attention__num_heads=2, feedforward__ff_dim=24)
    folders.write(theirs, "t5", config)
    assert main(["convert", "import", str(theirs), str(run)]) == 0
    direct, imported = tlx.load(theirs), tlx.load(run)
    asked = {"max_tokens": 6, "temperature": 0.0}
    text = "the cat <extra_id_0> on the mat"
    assert direct._encode_source(text)[-1] == direct.tokenizer.vocab.eos
    assert direct.tokenizer.vocab.sentinel(0) in direct._encode_source(text)
    assert imported.generate(text, **asked) == direct.generate(text, **asked)
    assert main(["convert", "export", str(run), str(back)]) == 0
    assert (back / "spiece.model").read_bytes() == (theirs / "spiece.model").read_bytes()


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_an_import_holds_a_piece_at_a_time(tmp_path):
    size = folders.byte_pairs(tmp_path / "theirs").get_vocab_size()
    base = TABLE.load("gpt2").base
    config = resized(base, vocab_size=size, width=1152, num_layers=16, feedforward__ff_dim=4608)
    folders.write(tmp_path / "theirs", "gpt2", config)
    size = (tmp_path / "theirs" / "model.safetensors").stat().st_size
    assert size > 8e8
    command = [sys.executable, "-m", "tlx", "convert", "import", str(tmp_path / "theirs")]
    child = subprocess.Popen([*command, str(tmp_path / "run")], stderr=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        with contextlib.suppress(OSError):
            status = pathlib.Path(f"/proc/{child.pid}/status").read_text()
            # What is not a mapped file: the kernel can take the rest back.
            if found := re.search(r"RssAnon:\s+(\d+) kB", status):
                peak = max(peak, 1024 * int(found[1]))
        time.sleep(0.02)
    assert child.returncode == 0
    assert 5e7 < peak < size / 2


def golden(tmp_path):
    """A run of tlx's own, with its own vocabulary, that another class can compute."""
    return unpack(FOLDER / "format_1" / "clm.tar.xz", tmp_path)


@pytest.mark.slow
def test_a_run_of_our_own_goes_out_with_its_tokenizer(tmp_path):
    run, out = golden(tmp_path / "run"), tmp_path / "out"
    assert main(["convert", "export", str(run), str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["intermediate_size"] == 32, (
        "no size is left to guess"
    )
    ours, theirs = tlx.load(run), tlx.load(out)
    text = "def main(args):\n    return 'ä고'\n"
    tokens = ours.tokenizer.encode(text)
    assert theirs.tokenizer.encode(text) == tokens
    np.testing.assert_allclose(theirs.logits(tokens), ours.logits(tokens), atol=1e-5)
    asked = {"max_tokens": 8, "temperature": 0.0}
    assert theirs.generate("import ", **asked) == ours.generate("import ", **asked)


def test_a_model_that_no_class_computes_is_told_why(tmp_path, capsys):
    run = unpack(FOLDER / "format_1" / "span_corruption.tar.xz", tmp_path / "run")
    assert main(["convert", "export", str(run), str(tmp_path / "out")]) == 64
    assert "t5: model.attention.qkv_bias = True cannot be represented" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
