"""Conversations in files: their turns, their ratings, and a window for each reply."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tlx.base.errors import ConfigError, DataError
from tlx.data import DataConfig, turns
from tlx.data.cache import TokenCache
from tlx.data.config import SourceConfig, TextConfig
from tlx.data.pipeline import build_pipeline
from tlx.data.prepare import open_caches
from tlx.data.sources import Document, open_source
from tlx.data.tokenize import documents
from tlx.data.window import Window, WindowSpec
from tlx.data.window_layouts import make_layout
from tlx.text import Vocabulary
from tlx.text.bytes_tokenizer import BytesTokenizer
from tlx.text.config import TokenizerConfig

TALKS = [["안녕 👋", "Hi!", "how are\nyou"], ["one only"], ["a", "b"]]
TOKENIZER = BytesTokenizer()
VOCAB = TOKENIZER.vocab


def source(path, **text):
    config = TextConfig(files=(str(path),), validation_files=(str(path),), **text)
    return SourceConfig("text", text=config)


def read(config) -> list[Document]:
    opened = open_source(config, "train")
    return list(documents(opened))


def test_jsonl_tsv_and_parquet_are_the_same(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"talk": talk}) + "\n\n" for talk in TALKS))
    pyarrow.parquet.write_table(pyarrow.table({"talk": TALKS}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        found = read(source(tmp_path / name, turns_column="talk"))
        assert [list(document.texts) for document in found] == TALKS
    assert found[2].name == f"{tmp_path}/a.parquet:3"
    (tmp_path / "a.tsv").write_text("안녕 👋\tHi!\tyes\n\none only\n")
    assert [document.texts for document in read(source(tmp_path / "a.tsv"))] == [
        ("안녕 👋", "Hi!", "yes"),
        ("one only",),
    ]


def test_ratings_are_0_1_or_null(tmp_path):
    rows = [{"talk": ["a", "b"], "sensible": 1, "safe": None}, {"talk": ["c"], "safe": 0}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = source(path, turns_column="talk", rating_columns=("sensible", "safe"))
    assert [document.ratings for document in read(config)] == [(1, None), (None, 0)]
    for wrong, message in (
        ({"talk": ["a"], "safe": 3}, "a.jsonl:1: 'safe' is 3; a rating is 0, 1 or null"),
        ({"talk": "a"}, "'talk' is str, not a list"),
        ({"talk": ["a", 1]}, "'talk' is int, not text"),
        ({"text": ["a"]}, "has no such field"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=message):
            read(config)
    for text, message in (
        (TextConfig(files=("x",), rating_columns=("safe",)), "needs turns_column"),
        (TextConfig(files=("x",), turns_column="t", target_column="u"), "target_column"),
    ):
        with pytest.raises(ConfigError, match=message):
            DataConfig("text", text=text).validate()


def test_tokens_of_a_conversation():
    encoded = [np.array(ids, np.int32) for ids in ([20, 21], [22], [23, 24])]
    tokens, begins = turns.conversation(encoded, [None, 1, 0], VOCAB)
    marks = [VOCAB.mark(turns.ATTRIBUTE + 1), VOCAB.mark(turns.RATING + 1)]
    marks += [VOCAB.mark(turns.ATTRIBUTE + 2), VOCAB.mark(turns.RATING)]
    assert tokens.tolist() == [20, 21, VOCAB.sep, 22, VOCAB.sep, *marks, 23, 24]
    assert begins.tolist() == [0, 3, 5] and tokens.dtype == np.int32
    text, rated = turns.split_ratings(tokens[5:], VOCAB)
    assert text.tolist() == [23, 24] and rated.tolist() == [[1, 1], [2, 0]]
    assert turns.split_ratings(encoded[0], VOCAB)[1].shape == (0, 2)
    with pytest.raises(ConfigError, match="needs 4 marks, the vocabulary has 3"):
        turns.conversation(encoded, [1], Vocabulary(50, num_sentinels=3))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> TokenCache:
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"talk": talk}) + "\n" for talk in TALKS))
    config = DataConfig("text", text=source(tmp_path / "a.jsonl", turns_column="talk").text)
    return open_caches(config, TOKENIZER, "train")[0]


def test_every_reply_is_one_window(cache):
    """What was said before it, its end where that is long, and the reply with what stands behind it."""
    layout = make_layout(cache, WindowSpec(100, "turns", second_length=50), "concat", VOCAB.pad)
    said = [
        (text(layout.window(i, 0)), text(layout.second_window(i, 50, None)))
        for i in range(layout.num_windows)
    ]
    sep, eos = [VOCAB.sep], [VOCAB.eos]
    first, second, third = (TOKENIZER.encode(turn) for turn in TALKS[0])
    assert said == [
        (first + sep, second + sep),
        (first + sep + second + sep, third + eos),
        (TOKENIZER.encode("a") + sep, TOKENIZER.encode("b") + eos),
    ]
    short = make_layout(cache, WindowSpec(4, "turns", second_length=2), "concat", VOCAB.pad)
    assert text(short.window(1, 0)) == (first + sep + second + sep)[-4:]
    assert text(short.second_window(1, 2, None)) == third[:2]
    assert cache.num_documents == 3 and cache.num_bytes == sum(
        len(t.encode()) for talk in TALKS for t in talk
    )


def text(window: Window) -> list[int]:
    return window.tokens[window.segments > 0].tolist()


def test_a_pair_is_a_conversation_of_two_turns(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "why?", "answer": "because"}))
    data = DataConfig("text", text=source(tmp_path / "a.jsonl", target_column="answer").text)
    pairs = make_layout(
        open_caches(data, TOKENIZER, "train")[0], WindowSpec(20, "turns", second_length=20), "concat", 0
    )
    assert text(pairs.window(0, 0)) == [*TOKENIZER.encode("why?"), VOCAB.eos] and pairs.num_windows == 1
    assert text(pairs.second_window(0, 20, None)) == [*TOKENIZER.encode("because"), VOCAB.eos]


def test_text_without_conversations_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("text")
    data = DataConfig("text", text=source(tmp_path / "a.txt").text)
    plain = open_caches(data, TOKENIZER, "train")[0]
    with pytest.raises(ConfigError, match="has none; name the field with the list of turns"):
        make_layout(plain, WindowSpec(4, "turns", second_length=4), "concat", VOCAB.pad)
    with pytest.raises(ConfigError, match="'turns' without room for an answer"):
        make_layout(plain, WindowSpec(4, "turns"), "concat", VOCAB.pad)


def test_an_epoch_has_every_reply_once(tmp_path, monkeypatch):
    """Replies count, not conversations: one of nine turns is read eight times as often as one of two."""
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    talks = [[f"{i}.{j}" for j in range(9 if i % 2 else 2)] for i in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"talk": talk}) for talk in talks))
    data = DataConfig("text", text=source(tmp_path / "a.jsonl", turns_column="talk").text)

    def example(rng, window, spec):
        said = TOKENIZER.decode(text(window.second)[:-1])
        return {"said": np.array([int(part) for part in said.split(".")]), "weights": np.ones(1)}

    reads = WindowSpec(40, "turns", second_length=20)
    build = build_pipeline(data, TOKENIZER, example, None, reads, batch_size=4, seed=3, split="train")
    assert build.num_windows == 36 and build.steps_per_epoch == 9
    found = np.concatenate([build.batch(k)["said"] for k in range(9)])
    assert sorted(map(tuple, found.tolist())) == [(i, j) for i in range(8) for j in range(1, len(talks[i]))]
    assert found.tolist() != sorted(found.tolist())


def test_a_tokenizer_is_trained_on_all_turns(tmp_path, monkeypatch):
    from tlx.data import prepare

    (tmp_path / "a.tsv").write_text("one\ttwo\n")
    sources = [open_source(source(tmp_path / "a.tsv"), "train")]
    assert list(prepare._sample(sources, [1.0], TokenizerConfig().train_bytes)) == ["one", "two"]
