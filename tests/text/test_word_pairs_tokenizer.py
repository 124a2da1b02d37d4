"""Vocabularies of CTRL and XLM: pieces as by hand, special ids, and the files kept."""

import json
import pickle

import pytest

from tlx.base.errors import ConfigError, DataError
from tlx.text import load_tokenizer
from tlx.text.word_pairs_tokenizer import WordPairsTokenizer

CTRL = ["<unk>", "th@@", "the", "c@@", "at", "a", "t@@", "h@@", "e", "a@@", "mat\n", "m@@", "t"]
XLM_SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
XLM = [*XLM_SPECIAL, "the</w>", "c", "at</w>", "th", ".</w>"]


def write(folder, model_type, pieces, merges, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("".join(f"{line}\n" for line in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return WordPairsTokenizer.from_folder(folder, model_type)


@pytest.fixture
def ctrl(tmp_path):
    return write(tmp_path / "ctrl", "ctrl", CTRL, ["#version: 0.2", "t h", "th e</w>", "a t</w>"])


def test_pieces_of_ctrl(ctrl):
    def pieces(text):
        return [ctrl.piece(index) for index in ctrl.encode(text)]

    assert pieces("the  cat") == ["the", "c@@", "at"]
    assert pieces("tha t<unk>a") == ["th@@", "a", "t", "<unk>", "a"]
    assert pieces("the\n q") == ["th@@", "<unk>", "<unk>", "<unk>"]  # a word ends with its newline
    assert ctrl.decode(ctrl.encode("the  cat the")) == "the cat the"
    assert ctrl.num_bytes[ctrl.encode("the cat")].sum() == len("the cat ")
    assert ctrl.count_bytes("the  q\n<unk>") == len("the  q\n")
    vocab = ctrl.vocab
    assert (vocab.unk, vocab.size, vocab.added) == (0, len(CTRL) + 6, 6) and ctrl.frame == ([], [])


def test_special_ids_of_xlm(tmp_path):
    xlm = write(tmp_path, "xlm", XLM, ["t h", "th e</w>", "a t</w>"])
    vocab = xlm.vocab
    assert (vocab.bos, vocab.eos, vocab.pad, vocab.unk, vocab.mask, vocab.cls, vocab.added) == (
        0,
        1,
        2,
        3,
        5,
        1,
        0,
    )
    assert xlm.frame == ([0], [1]) and xlm.encode("<special1></s>") == [5, 1]
    assert xlm.decode([0, 14, 15, 16, 18, 1]) == "the cat ."
    assert xlm.decode([0, 14], keep_special=True) == "<s>the"
    try:
        import sacremoses  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ConfigError, match="pip install sacremoses"):
            xlm.encode("the cat.")
    else:
        assert xlm.encode("The Cát.") == [14, 15, 16, 18]


def test_saved_loaded_pickled_given_back_and_damaged(ctrl, tmp_path):
    ctrl.save(tmp_path / "run")
    for other in (load_tokenizer(tmp_path / "run"), pickle.loads(pickle.dumps(ctrl))):
        assert other.hash == ctrl.hash and other.vocab == ctrl.vocab
        assert other.encode("the cat") == ctrl.encode("the cat")
    ctrl.export(tmp_path / "back")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "ctrl" / name).read_bytes()
    (tmp_path / "run" / "word_pairs" / "merges.txt").write_text("x y\n")
    with pytest.raises(DataError, match="damaged"):
        load_tokenizer(tmp_path / "run")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="gpt2"):
        WordPairsTokenizer({}, "gpt2")
    with pytest.raises(DataError, match="the tokenizer of the ctrl cannot be read"):
        WordPairsTokenizer.from_folder(tmp_path, "ctrl")
