"""The token cache: written once, by one, whole; damage is noticed and mended."""

import json
import logging
import multiprocessing
import os
import pathlib
import pickle
import signal
import time

import numpy as np
import pytest

from tests.data.corpus import FIRST, CountingTokenizer, Lengths, make_cache, random_lengths
from tlx.base.errors import DataError, StorageError
from tlx.data import DataConfig, TextConfig, open_caches, prepare_tokenizer
from tlx.data.build_once import build_once
from tlx.data.cache import TokenCache
from tlx.data.packing import best_fit_plan
from tlx.data.prepare import _sample
from tlx.data.sources import Document
from tlx.data.tokenize import write_cache
from tlx.text import TokenizerConfig, Vocabulary


def test_round_trip(tmp_path):
    lengths = random_lengths(0, 500, 400)
    cache = make_cache(tmp_path / "c", lengths, eos=True)
    assert cache.num_documents == 500 and cache.num_tokens == lengths.sum() + 500
    assert cache.tokens.dtype == np.uint32 and not cache.tokens.flags.writeable
    at = FIRST
    for d, length in enumerate(lengths):
        document = cache.tokens[cache.offsets[d] : cache.offsets[d + 1]]
        assert document.tolist() == [*range(at, at + length), 3]
        at += length
    copy = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(copy.tokens, cache.tokens) and len(pickle.dumps(cache)) < 300


def test_small_vocabularies_take_two_bytes(tmp_path):
    for size, dtype in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        folder = tmp_path / str(size)
        folder.mkdir()
        write_cache(folder, Lengths([size - FIRST]), CountingTokenizer(Vocabulary(size)), False)
        cache = TokenCache(folder)
        assert cache.tokens.dtype == dtype and cache.tokens.max() == size - 1


def test_documents_keep_their_order_over_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.data.tokenize.CHUNK", 40)  # a chunk for every few documents
    lengths = random_lengths(3, 400, 30)
    cache = make_cache(tmp_path / "c", lengths)
    assert cache.tokens.tolist() == list(range(FIRST, FIRST + lengths.sum()))
    assert np.diff(cache.offsets).tolist() == lengths.tolist()


def _truncate(folder):
    path = folder / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-1])


def _grow(folder):
    with (folder / "offsets.bin").open("ab") as handle:
        handle.write(bytes(8))


def _scramble(folder):
    offsets = np.fromfile(folder / "offsets.bin", np.int64)
    offsets[1] = offsets[2]
    offsets.tofile(folder / "offsets.bin")


def _meta(folder, **changes):
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = [
    (_truncate, r"tokens.bin is damaged: \d+ bytes instead of \d+"),
    (_grow, r"offsets.bin is damaged: \d+ bytes instead of \d+"),
    (_scramble, "offsets.bin is damaged: its offsets do not rise"),
    (lambda folder: (folder / "tokens.bin").unlink(), "cannot read the token cache: .*tokens.bin"),
    (lambda folder: (folder / "meta.json").write_text("{"), "cannot read the token cache"),
    (lambda folder: _meta(folder, format=0), "meta.json has format 0; this version reads 1"),
    (lambda folder: (folder / "meta.json").write_text('{"format": 1}'), "it lacks max_token, num_bytes"),
    (lambda folder: _meta(folder, max_token=1 << 20), "holds token 1048576, outside its vocabulary"),
]


@pytest.mark.parametrize("damage, message", DAMAGE)
def test_damage_is_noticed_on_opening(tmp_path, damage, message):
    make_cache(tmp_path / "c", [5, 6, 7])
    damage(tmp_path / "c")
    with pytest.raises(DataError, match=message):
        TokenCache(tmp_path / "c")


def _config(tmp_path, text="hello\nworld\n") -> DataConfig:
    path = tmp_path / "a.txt"
    if not path.exists():
        path.write_text(text)
    return DataConfig(source="text", text=TextConfig(files=(str(path),), validation_files=(str(path),)))


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    return _config(tmp_path)


def _bytes_tokenizer(config):
    return prepare_tokenizer(TokenizerConfig(kind="bytes"), config)


def test_a_damaged_cache_is_made_again(cached, caplog):
    tokenizer = _bytes_tokenizer(cached)
    (first,) = open_caches(cached, tokenizer, "train")
    assert first.num_bytes == len("hello\nworld\n") == first.num_tokens - 1
    tokens = first.tokens.copy()
    _truncate(first.folder)
    with caplog.at_level(logging.WARNING):
        (again,) = open_caches(cached, tokenizer, "train")
    assert "tokens.bin is damaged" in caplog.text and "making it again" in caplog.text
    assert np.array_equal(again.tokens, tokens)
    assert _leftovers(first.folder) == []


def test_what_a_cache_depends_on(cached, tmp_path):
    tokenizer = _bytes_tokenizer(cached)

    def folder(config=cached, tokenizer=tokenizer, split="train"):
        return open_caches(config, tokenizer, split)[0].folder

    first = folder()
    written = first.stat().st_mtime_ns
    assert folder() == first and first.stat().st_mtime_ns == written
    assert folder(split="validation") != first
    assert folder(DataConfig(source="text", text=cached.text, add_eos=False)) != first
    other = prepare_tokenizer(TokenizerConfig(vocab_size=380, train_bytes=1000), _config(tmp_path))
    assert folder(tokenizer=other) != first
    (tmp_path / "a.txt").write_text("hello\nother\n")
    assert folder() != first


def test_the_tokenizer_is_trained_once(cached, monkeypatch):
    config = TokenizerConfig(vocab_size=380)
    first = prepare_tokenizer(config, cached)
    monkeypatch.setattr("tlx.data.prepare.make_tokenizer", None)
    assert prepare_tokenizer(config, cached).hash == first.hash


class _TwoFiles:
    name = "two files"
    parts = ("first", "second")

    def read(self, part):
        return (Document(f"{part}:{i}", f"{part[0]}{i:09}") for i in range(100))


def test_the_training_text_is_shared_out_over_sources_and_files():
    texts = list(_sample([_TwoFiles(), _TwoFiles()], [1.0, 3.0], 800))
    assert [text[0] for text in texts] == ["f"] * 10 + ["s"] * 10 + ["f"] * 30 + ["s"] * 30
    assert texts[:10] == [f"f{i:09}" for i in range(10)]
    assert len(list(_sample([_TwoFiles()], [1.0], 1))) == 2  # a document of each file at least


def _slow_make(folder, log, seconds):
    with open(log, "a") as handle:
        handle.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    (folder / "value").write_text("done")


def _load(folder):
    try:
        value = (folder / "value").read_text()
    except OSError as error:
        raise DataError(str(error)) from error
    if value != "done":
        raise DataError("half")
    return value


def _make(folder, log, seconds):
    build_once(pathlib.Path(folder), lambda temporary: _slow_make(temporary, log, seconds), _load)


def _leftovers(folder):
    return [p.name for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_one_process_writes_and_the_others_wait(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    folder, log = tmp_path / "made", tmp_path / "log"
    processes = [spawn.Process(target=_make, args=(folder, log, 0.5)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert _load(folder) == "done"
    assert len(log.read_text().split()) == 1
    assert _leftovers(folder) == []


def test_a_writer_that_is_killed_leaves_nothing_in_the_way(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    folder, log = tmp_path / "made", tmp_path / "log"
    process = spawn.Process(target=_make, args=(folder, log, 60))
    process.start()
    while not log.exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not folder.exists() and len(_leftovers(folder)) == 1
    _make(folder, log, 0)
    assert _load(folder) == "done" and _leftovers(folder) == []


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def make(folder):
        (folder / "value").write_text("half")
        raise DataError("bad record")

    with pytest.raises(DataError, match="bad record"):
        build_once(tmp_path / "made", make, _load)
    assert not (tmp_path / "made").exists() and _leftovers(tmp_path / "made") == []


def test_a_place_that_cannot_be_written():
    with pytest.raises(StorageError, match="cannot write /proc/x/made.*TLX_CACHE"):
        build_once(pathlib.Path("/proc/x/made"), lambda folder: None, _load)


def test_packing_plans_are_kept_and_checked(tmp_path):
    cache = make_cache(tmp_path / "c", random_lengths(0, 50, 30))
    plan = best_fit_plan(cache, 32)
    folder = tmp_path / "c-best-fit-32"
    written = folder.stat().st_mtime_ns
    assert all(np.array_equal(a, b) for a, b in zip(best_fit_plan(cache, 32), plan, strict=True))
    assert folder.stat().st_mtime_ns == written
    (folder / "fingerprint").write_text("of another cache")
    best_fit_plan(cache, 32)
    assert (folder / "fingerprint").read_text() == cache.fingerprint
