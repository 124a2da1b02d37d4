"""Tokenizers lose nothing, keep one layout, and come back the same from disk."""

import argparse
import pathlib
import pickle

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tlx.base.errors import ConfigError, DataError
from tlx.text import TokenizerConfig, load_tokenizer, make_tokenizer

pytestmark = pytest.mark.jax_versions

CORPUS = [
    "def f(x):\n    return x + 1  # adds one\n\n\nclass A:\n\tdef g(self):\n\t\tpass\n" * 20,
    "The quick brown fox jumps over the lazy dog. 안녕하세요, 세계! 반갑습니다.\n" * 20,
    "import os, sys\nfor name in sorted(os.listdir(sys.argv[1])):\n        print(name)\n" * 20,
    pathlib.Path(argparse.__file__).read_text(),
] * 3
SIZE = 520
JAPANESE = [
    "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。",
    "何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
] * 50


def _config(kind: str) -> TokenizerConfig:
    model_type = "unigram" if kind == "unigram" else "bpe"
    return TokenizerConfig(
        kind="bytes" if kind == "bytes" else "sentencepiece", vocab_size=SIZE, model_type=model_type
    )


@pytest.fixture(scope="module", params=["bpe", "unigram", "bytes"])
def tokenizer(request):
    return make_tokenizer(_config(request.param), CORPUS)


TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from(list(" \t\n\r_▁⁇az09(.\x00é한😀\ufffd")), max_size=40),
    st.lists(st.sampled_from(["<s>", "</s>", "<pad>", "<mask>", "<0x41>", "<extra_id_0>", "  ", "x"])).map(
        "".join
    ),
)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
@example(" leading and trailing ")
@example("tabs\t\tand   many    spaces\r\nand 한국어 😀👩‍👩‍👧 \u2581 \u2047")
@example("<s>not special</s><mask><0x41>")
@example("")
def test_round_trip_is_lossless(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not tokenizer.vocab.special[ids].any()
    assert tokenizer.num_bytes[ids].sum() == len(text.encode())
    (batch,) = tokenizer.encode_batch([text])
    assert batch.dtype == np.int32 and batch.tolist() == ids


def test_layout(tokenizer):
    vocab = tokenizer.vocab
    names = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "<cls>", "<sep>"]
    fields = [vocab.pad, vocab.unk, vocab.bos, vocab.eos, vocab.mask, vocab.cls, vocab.sep]
    assert fields == list(range(7))
    assert [tokenizer.piece(index) for index in fields] == names
    assert [tokenizer.piece(vocab.sentinel(i)) for i in (0, 1, 99)] == [
        "<extra_id_0>",
        "<extra_id_1>",
        "<extra_id_99>",
    ]
    assert vocab.sentinel(0) == vocab.size - 1
    assert vocab.special.sum() == 107 and (tokenizer.num_bytes[vocab.special] == 0).all()
    assert (tokenizer.num_bytes[~vocab.special] > 0).all()
    assert tokenizer.decode([vocab.bos, *tokenizer.encode("a b"), vocab.mask, vocab.eos]) == "a b"
    assert tokenizer.decode(np.array([vocab.mask, vocab.size - 1]), keep_special=True) == "<mask><extra_id_0>"


def test_sizes():
    assert make_tokenizer(_config("bpe"), CORPUS).vocab.size == SIZE
    assert make_tokenizer(_config("bytes"), []).vocab.size == 363


def test_training_is_deterministic(tokenizer, request):
    again = make_tokenizer(_config(request.node.callspec.params["tokenizer"]), CORPUS)
    assert again.hash == tokenizer.hash


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    text = "def f(x):\n\treturn '한국어'"
    assert loaded.hash == tokenizer.hash and loaded.vocab == tokenizer.vocab
    assert loaded.encode(text) == tokenizer.encode(text) == pickle.loads(pickle.dumps(loaded)).encode(text)
    by_path = make_tokenizer(TokenizerConfig(path=str(tmp_path / "t")), [])
    assert by_path.hash == tokenizer.hash


def test_damaged_files_are_noticed(tmp_path):
    make_tokenizer(_config("bpe"), CORPUS).save(tmp_path)
    model = tmp_path / "sentencepiece.model"
    content = bytearray(model.read_bytes())
    content[2000] ^= 1
    model.write_bytes(content)
    with pytest.raises(DataError, match="sentencepiece.model is damaged"):
        load_tokenizer(tmp_path)
    model.unlink()
    with pytest.raises(DataError, match="sentencepiece.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="tokenizer.json"):
        load_tokenizer(tmp_path / "absent")


def test_a_saved_tokenizer_names_no_code(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"format": 1, "kind": "os:system"}')
    with pytest.raises(DataError, match="outside tlx"):
        load_tokenizer(tmp_path)


def test_words_start_at_spaces_newlines_and_punctuation(tokenizer):
    def starts(text):
        return [bool(tokenizer.starts_word[i]) for i in tokenizer.encode(text)]

    assert starts(" x")[0] and starts("\n") == [True] and starts("(")[0] and starts("\t")[0]
    assert starts("x") == [False] and starts("_") == [False] and starts("7") == [False]
    assert sum(starts(" quick")) == 1
    assert starts("😀") == [True, False, False, False]  # one character in bytes
    assert tokenizer.starts_word[tokenizer.vocab.special].all()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"vocab_size": 300}, "vocab_size = 300 must be more than 364"),
        (
            {"vocab_size": 100_000},
            r"vocab_size = 100000 does not suit this text: it can fill at most \d+ ids",
        ),
        ({"path": "/nowhere"}, "'/nowhere' is not a folder with a tokenizer.json"),
        ({"train_bytes": 0}, "train_bytes = 0 must be positive"),
    ],
)
def test_config_errors_name_the_field(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make_tokenizer(TokenizerConfig(**kwargs), CORPUS)


def test_too_many_characters_for_the_vocabulary():
    text = "".join(chr(0x4E00 + i) for i in range(3000))
    with pytest.raises(ConfigError, match=r"its characters alone need \d+ ids"):
        make_tokenizer(TokenizerConfig(vocab_size=600), [text] * 3)


@pytest.mark.parametrize(
    "model_type, size, texts",
    [
        ("bpe", 430, JAPANESE),
        ("unigram", 409, JAPANESE),
        ("bpe", 380, ["ACGTTGCA" * 400] * 20 + ["a b"]),
    ],
)
def test_a_space_comes_back_though_it_was_too_rare_to_be_counted(model_type, size, texts):
    config = TokenizerConfig(vocab_size=size, model_type=model_type)
    tokenizer = make_tokenizer(config, texts)
    text = "猫 犬 a b ▁  "
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.num_bytes[ids].sum() == len(text.encode())
    assert make_tokenizer(config, texts).hash == tokenizer.hash


def test_an_error_while_reading_the_text_is_the_error():
    def texts():
        yield CORPUS[0]
        raise DataError("file x cannot be read")

    with pytest.raises(DataError, match="file x cannot be read"):
        make_tokenizer(_config("bpe"), texts())


def test_a_newline_is_a_symbol_of_its_own():
    tokenizer = make_tokenizer(_config("bpe"), CORPUS)
    assert tokenizer.piece(7) == "\n" and tokenizer.encode("\n\n") == [7, 7]


def test_the_saved_model_is_whole_for_other_programs(tmp_path):
    tokenizer = make_tokenizer(_config("bpe"), CORPUS)
    tokenizer.save(tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.model"))
    assert model.get_piece_size() == SIZE
    assert all(model.id_to_piece(i) == tokenizer.piece(i) for i in range(SIZE))
    assert [model.is_control(i) for i in range(SIZE - 101, SIZE)] == [False] + [True] * 100
