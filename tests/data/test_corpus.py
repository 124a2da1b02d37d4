"""A prepared corpus: the same bytes whatever made it, and the same windows as a token cache of the same text."""

import dataclasses
import json
import os
import pathlib
import pickle
import random
import threading
import time

import numpy as np
import pytest

from tests.data.corpus import equal, example
from tlx.base import place as places
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError, DataError
from tlx.base.object_store import ObjectStore
from tlx.data import DataConfig, TextConfig, WeightedSource, open_caches, prepare_tokenizer
from tlx.data.corpus import build
from tlx.data.corpus.job import CorpusJob
from tlx.data.filters import FilterConfig, RecordFilter
from tlx.data.pipeline import Pipeline
from tlx.data.prepare import check_text_size
from tlx.data.sources import Document
from tlx.data.window import WindowSpec
from tlx.data.window_layouts import make_layout
from tlx.text import TokenizerConfig

BYTES = TokenizerConfig(kind="bytes")
WORDS = "a model reads tokens and predicts what comes next".split()


class HereRunner:
    """Runs all tasks in this process, in a shuffled order."""

    def __init__(self, seed=0):
        self.random = random.Random(seed)

    def run(self, function, numbers, title):
        numbers = list(numbers)
        self.random.shuffle(numbers)
        for number in numbers:
            pickle.loads(pickle.dumps(function))(number)


def prepare(data: DataConfig, place, runner=None, **job) -> dict:
    """Prepare a corpus of small shards of bytes, and return its index."""
    tokenizer = prepare_tokenizer(BYTES, data)
    job = CorpusJob(str(place), data, BYTES, **{"task_bytes": 2000, "shard_tokens": 700, **job})
    job = build.begin_corpus(job, tokenizer)
    for stage in build.stages(job):
        build.run_stage(job, stage, runner or HereRunner())
    return build.finish_corpus(job)


def write_texts(folder: pathlib.Path, files=8, records=30, seed=0) -> str:
    """Files of records of all kinds: texts, translations and conversations; returns their glob."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        lines = []
        for _ in range(records):
            texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(3)]
            lines.append(
                json.dumps({"text": texts[0], "other": texts[1], "turns": texts[: rng.randint(1, 3)]})
            )
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    return str(folder / "*.jsonl")


def source(glob: str, **text) -> DataConfig:
    return DataConfig(source="text", text=TextConfig(files=(glob,), validation_fraction=0.1, **text))


def objects_of(place) -> dict[str, bytes]:
    return {
        name: (pathlib.Path(place) / name).read_bytes() for name in places.list_files(pathlib.Path(place))
    }


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    # So that a shard of 700 tokens has several blocks.
    monkeypatch.setattr("tlx.data.corpus.shard.BLOCK", 64)
    monkeypatch.setattr("tlx.data.corpus.prepared_split.BLOCK", 64)
    return source(write_texts(tmp_path / "text"))


def pipelines(data, place, reads, split="train"):
    """Pipelines over token caches and over the corpus."""
    made = []
    for config in (data, dataclasses.replace(data, tokens=str(place))):
        tokenizer = prepare_tokenizer(BYTES, config)
        layouts = [
            make_layout(opened, reads, config.packing, tokenizer.vocab.pad)
            for opened in open_caches(config, tokenizer, split)
        ]
        made.append(Pipeline(config, layouts, _example, None, reads, 6, 0, split))
    return made


def _example(rng, window, spec):
    row = example(rng, window, spec)
    if window.second is not None:
        row |= {"second": window.second.tokens, "second_segments": window.second.segments}
    return row


LAYOUTS = [
    (WindowSpec(48, overlap=3, second_length=9), {}, {}),
    (WindowSpec(48), {"packing": "best_fit"}, {}),
    (WindowSpec(48, "stream", 8, both_ways=True), {}, {}),
    (WindowSpec(20, "document", second_length=9), {}, {}),
    (WindowSpec(48, "parallel", second_length=30), {}, {"target_column": "other"}),
    (WindowSpec(48, "turns", second_length=30), {}, {"turns_column": "turns"}),
]


@pytest.mark.slow
@pytest.mark.parametrize("reads, config, text", LAYOUTS, ids=lambda value: getattr(value, "layout", ""))
def test_windows_are_those_of_a_token_cache(data, tmp_path, reads, config, text):
    data = dataclasses.replace(data, text=dataclasses.replace(data.text, **text), **config)
    if reads.layout == "packed":
        other = WeightedSource(
            source="text", text=TextConfig((write_texts(tmp_path / "b", 2, 20, 1),)), weight=0.5
        )
        data = dataclasses.replace(data, mixture=(WeightedSource(source="text", text=data.text), other))
    index = prepare(data, tmp_path / "corpus")
    assert len(index["sources"][0]["train"]["shards"]["names"]) > 4
    for split in ("train", "validation"):
        cached, prepared = pipelines(data, tmp_path / "corpus", reads, split)
        # A run that was begun with the cache goes on with the corpus.
        assert prepared.fingerprint == cached.fingerprint
        assert prepared.num_windows == cached.num_windows and prepared.num_tokens == cached.num_tokens
        prepared = pickle.loads(pickle.dumps(prepared))
        for k in range(2 * cached.steps_per_epoch):
            assert equal(prepared.batch(k), cached.batch(k))


def test_every_offset_is_found(data, tmp_path):
    prepare(data, tmp_path / "corpus")
    (cached,), (prepared,) = (
        open_caches(config, prepare_tokenizer(BYTES, config), "train")
        for config in (data, dataclasses.replace(data, tokens=str(tmp_path / "corpus")))
    )
    assert np.array_equal(prepared.read_tokens(0, prepared.num_tokens), cached.tokens)
    assert np.array_equal(prepared.read_offsets(0, prepared.num_documents + 1), cached.offsets)
    assert prepared.num_bytes == cached.num_bytes
    for token in range(prepared.num_tokens):
        assert prepared.find_document(token) == cached.find_document(token)
    for start in range(0, prepared.num_tokens, 31):
        for size in (1, 40, 2000):
            stop = min(start + size, prepared.num_tokens)
            assert np.array_equal(prepared.starts_between(start, stop), cached.starts_between(start, stop))


def test_the_bytes_do_not_depend_on_order_threads_or_interruptions(data, tmp_path, monkeypatch):
    data = dataclasses.replace(data, filter=FilterConfig(duplicates="drop"))
    prepare(data, tmp_path / "whole")
    expected = objects_of(tmp_path / "whole")
    prepare(data, tmp_path / "other", HereRunner(1), threads=3)
    assert objects_of(tmp_path / "other") == expected
    # A process that is killed has written some objects whole, and the others not at all.
    writes = 0
    write = places.write

    def failing(place, content):
        nonlocal writes
        writes += 1
        if writes % 5 == 0:
            raise KeyboardInterrupt
        write(place, content)

    monkeypatch.setattr(places, "write", failing)
    for attempt in range(100):
        try:
            prepare(data, tmp_path / "killed", HereRunner(attempt))
            break
        except KeyboardInterrupt:
            assert not (tmp_path / "killed" / "corpus.json").exists()
    assert attempt > 5
    assert objects_of(tmp_path / "killed") == expected


def test_what_is_done_is_not_done_again(data, tmp_path):
    prepare(data, tmp_path / "corpus")
    (tmp_path / "corpus" / "corpus.json").unlink()
    (tmp_path / "corpus" / "tasks" / "000001.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*") if path.is_file()}
    asked = []

    class Recording(HereRunner):
        def run(self, function, numbers, title):
            asked.extend(numbers)
            super().run(function, numbers, title)

    prepare(data, tmp_path / "corpus", Recording())
    assert asked == [1]
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed and all(name.startswith("000001-") for name in changed)


def test_shares_of_the_tasks_are_run_apart(data, tmp_path):
    prepare(data, tmp_path / "whole")
    job = CorpusJob(str(tmp_path / "parts"), data, BYTES, task_bytes=2000, shard_tokens=700)
    job = build.begin_corpus(job, prepare_tokenizer(BYTES, data))
    for index in (2, 0, 1):
        with pytest.raises(DataError, match="is not complete: .* the same command again"):
            build.finish_corpus(job)
        assert build.run_stage(job, "tokens", HereRunner(), build.Share(index, 3))
    build.finish_corpus(job)
    assert objects_of(tmp_path / "parts") == objects_of(tmp_path / "whole")


def test_stages_wait_for_one_another(data, tmp_path):
    data = dataclasses.replace(data, filter=FilterConfig(duplicates="drop"))
    job = CorpusJob(str(tmp_path / "corpus"), data, BYTES, task_bytes=2000, shard_tokens=700)
    job = build.begin_corpus(job, prepare_tokenizer(BYTES, data))
    build.run_stage(job, "hashes", HereRunner(), build.Share(0, 2))
    with pytest.raises(
        DataError, match="tasks of the stage 'hashes' are not done, which come before 'duplicates'"
    ):
        build.run_stage(job, "duplicates", HereRunner())


def _write_lines(path: pathlib.Path, texts) -> str:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return str(path)


def test_filters_are_counted(tmp_path, data):
    train = [
        "too short",
        "a text that is kept",
        "x" * 200,
        "please drop this text",
        "a text that is kept",
    ] * 3
    held_out = ["a text that is held out", "another text that is kept", "a text that is held out"]
    data = DataConfig(
        source="text",
        text=TextConfig(
            (_write_lines(tmp_path / "t.jsonl", [*train, "a text that is held out"]),),
            (_write_lines(tmp_path / "v.jsonl", held_out),),
        ),
        filter=FilterConfig(10, 100, "drop", "tests.data.test_corpus:drops"),
    )
    index = prepare(data, tmp_path / "corpus")
    train, validation = (index["sources"][0][split] for split in ("train", "validation"))
    # Of equal texts the first is kept; what is in both splits is in validation alone.
    assert train["filtered"] == {
        "duplicate": 6,
        "function: asks to be dropped": 3,
        "max_characters": 3,
        "min_characters": 3,
    }
    assert train["num_documents"] == 1
    assert validation["filtered"] == {"duplicate": 1} and validation["num_documents"] == 2
    opened = open_caches(dataclasses.replace(data, tokens=str(tmp_path / "corpus")), _bytes(), "train")
    assert _bytes().decode(opened[0].read_tokens(0, opened[0].num_tokens - 1)) == "a text that is kept"
    with pytest.raises(ConfigError, match="data.filter leaves out records while a corpus is prepared"):
        open_caches(data, _bytes(), "train")


def drops(texts):
    """A filter of one's own."""
    return "asks to be dropped" if "drop" in texts[0] else ""


def test_duplicates_are_found_in_any_number_of_groups(data, tmp_path, monkeypatch):
    copies = json.loads((tmp_path / "text" / "0.jsonl").read_text().splitlines()[0])["text"]
    _write_lines(tmp_path / "text" / "copies.jsonl", [copies] * 50)
    data = dataclasses.replace(data, filter=FilterConfig(duplicates="drop"))
    one = prepare(data, tmp_path / "one")
    monkeypatch.setattr("tlx.data.corpus.duplicates._GROUP_BYTES", 1000)
    several = prepare(data, tmp_path / "several")
    assert len(list((tmp_path / "several" / "duplicates").glob("found-*"))) >= 8
    assert several["sources"] == one["sources"]
    texts = [
        text
        for split in ("train", "validation")
        for text in _decoded(dataclasses.replace(data, tokens=str(tmp_path / "one")), split)
    ]
    every = {
        json.loads(line)["text"]
        for path in (tmp_path / "text").glob("*.jsonl")
        for line in path.read_text().splitlines()
    }
    assert len(texts) == len(set(texts)) and set(texts) == every


def _bytes():
    return prepare_tokenizer(BYTES, DataConfig())


def _decoded(data, split):
    (opened,) = open_caches(data, _bytes(), split)
    offsets = opened.read_offsets(0, opened.num_documents + 1)
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        yield _bytes().decode(opened.read_tokens(start, stop - 1))


def test_a_filter_of_ones_own_is_code_that_must_be_allowed():
    values = to_dict(DataConfig(filter=FilterConfig(function="tests.data.test_corpus:drops")))
    with pytest.raises(ConfigError, match="data.filter.function = .* is code outside tlx; pass allow="):
        from_dict(DataConfig, values, "data")
    assert from_dict(DataConfig, values, "data", allow=("tests",)).filter.function
    with pytest.raises(ConfigError, match='must have the form "package.module:attr"'):
        FilterConfig(function="drops").validate()
    with pytest.raises(ConfigError, match="max_characters = 3 is less than min_characters = 5"):
        FilterConfig(5, 3).validate()
    wrong = RecordFilter(FilterConfig(function="tests.data.test_corpus:wrong"))
    with pytest.raises(DataError, match="returned True; it must return"):
        wrong.keeps([Document("", "text")])


def wrong(texts):
    """A filter that answers another question."""
    return True


def test_another_corpus_is_refused_in_its_place(data, tmp_path):
    prepare(data, tmp_path / "corpus")
    with pytest.raises(ConfigError, match="--to = .* holds a corpus of other files"):
        prepare(dataclasses.replace(data, add_eos=False), tmp_path / "corpus")
    os.utime(tmp_path / "text" / "0.jsonl", (1, 1))
    with pytest.raises(ConfigError, match="it differs in key"):
        prepare(data, tmp_path / "corpus")


def test_training_is_refused_on_a_corpus_of_something_else(data, tmp_path):
    prepare(data, tmp_path / "corpus")
    opened = dataclasses.replace(data, tokens=str(tmp_path / "corpus"))
    with pytest.raises(ConfigError, match="was prepared with data.add_eos = True, this config has False"):
        open_caches(dataclasses.replace(opened, add_eos=False), _bytes(), "train")
    text = dataclasses.replace(data.text, column="other")
    with pytest.raises(
        ConfigError, match="was prepared with data.text.column = 'text', this config has 'other'"
    ):
        open_caches(dataclasses.replace(opened, text=text), _bytes(), "train")
    trained = TokenizerConfig(vocab_size=400, train_bytes=2000)
    with pytest.raises(
        ConfigError, match="was prepared with tokenizer.kind = 'bytes', this config has 'sent"
    ):
        prepare_tokenizer(trained, opened)
    with pytest.raises(ConfigError, match="was made by another tokenizer"):
        open_caches(opened, prepare_tokenizer(trained, data), "train")
    with pytest.raises(DataError, match="data.tokens = .* has no corpus.json: .* run tlx data prepare --to="):
        open_caches(dataclasses.replace(data, tokens=str(tmp_path)), _bytes(), "train")


def test_a_vocabulary_is_trained_once_and_comes_with_the_corpus(data, tmp_path, monkeypatch):
    config = TokenizerConfig(vocab_size=400, train_bytes=2000)
    tokenizer = prepare_tokenizer(config, data)
    job = build.begin_corpus(CorpusJob(str(tmp_path / "corpus"), data, config), tokenizer)
    build.run_stage(job, "tokens", HereRunner())
    build.finish_corpus(job)
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "of another machine"))
    (tmp_path / "text").rename(tmp_path / "gone")
    opened = dataclasses.replace(data, tokens=str(tmp_path / "corpus"))
    assert prepare_tokenizer(config, opened).hash == tokenizer.hash
    assert open_caches(opened, tokenizer, "train")[0].num_documents > 200


def test_a_damaged_shard_is_named(data, tmp_path):
    index = prepare(data, tmp_path / "corpus")
    name = index["sources"][0]["train"]["shards"]["names"][0]
    (opened,) = open_caches(dataclasses.replace(data, tokens=str(tmp_path / "corpus")), _bytes(), "train")
    path = tmp_path / "corpus" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{name} is damaged: .* bytes instead of"):
        opened.read_tokens(0, 10)
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read the prepared corpus: .*{name}"):
        opened.read_tokens(0, 10)


def test_bad_records_are_counted_over_all_tasks(data, tmp_path):
    for number in (0, 5):
        with (tmp_path / "text" / f"{number}.jsonl").open("a") as handle:
            handle.write('\n{"text": 3}')
    with pytest.raises(DataError, match="'text' is int, not text"):
        prepare(data, tmp_path / "strict")
    skipping = dataclasses.replace(data, on_bad_record="skip")
    index = prepare(skipping, tmp_path / "corpus")
    assert (
        sum(index["sources"][0][split]["skipped"].get("num_bad", 0) for split in ("train", "validation")) == 2
    )
    with pytest.raises(DataError, match="more than data.max_bad_records = 0 records"):
        prepare(dataclasses.replace(skipping, max_bad_records=0), tmp_path / "limited")


def test_a_corpus_in_a_bucket_is_read_by_several_requests_at_once(data, tmp_path, monkeypatch):
    place = f"memory://bucket/{tmp_path.name}"
    prepare(data, place)
    cached, remote = pipelines(data, place, WindowSpec(48, overlap=3))
    assert remote.fingerprint == cached.fingerprint
    in_flight = 0
    most = 0
    lock = threading.Lock()
    read = ObjectStore.read

    def slow(self, *words):
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        time.sleep(0.02)
        with lock:
            in_flight -= 1
        return read(self, *words)

    monkeypatch.setattr(ObjectStore, "read", slow)
    batches = remote.iterate()
    for k in range(10):
        assert equal(next(batches), cached.batch(k))
    batches.close()
    assert most > 6  # more than the rows of a batch


def test_shards_of_a_bucket_are_kept_up_to_a_limit(data, tmp_path, monkeypatch):
    place = f"memory://bucket/{tmp_path.name}"
    index = prepare(data, place)
    opened = dataclasses.replace(data, tokens=place, cache_gigabytes=1e-5)
    (split,) = open_caches(opened, _bytes(), "train")
    cache = split._files._cache
    before = split.read_tokens(0, split.num_tokens)
    cache.wait()
    kept = list((tmp_path / "cache" / "shards").rglob("?" * 64))
    shards = index["sources"][0]["train"]["shards"]
    assert 0 < len(kept) < len(shards["names"])
    assert 5000 < sum(path.stat().st_size for path in kept) <= 10_000
    names = dict(zip(shards["sha256"], shards["names"], strict=True))
    # What is kept is not asked for again, by another process neither.
    again = pickle.loads(pickle.dumps(split))
    for path in kept:
        (places.parse(place) / names[path.name]).unlink()
    assert np.array_equal(split.read_tokens(0, split.num_tokens), before)
    assert np.array_equal(again.read_tokens(0, split.num_tokens), before)


def test_several_processes_do_not_tokenise_much_text(data, tmp_path, monkeypatch):
    size = sum(path.stat().st_size for path in (tmp_path / "text").iterdir())
    check_text_size(data, _bytes(), 2)
    # Both splits are of the same files, which count once.
    monkeypatch.setattr("tlx.data.prepare.MOST_SHARED_BYTES", size)
    check_text_size(data, _bytes(), 2)
    monkeypatch.setattr("tlx.data.prepare.MOST_SHARED_BYTES", size - 1)
    check_text_size(data, _bytes(), 1)
    with pytest.raises(ConfigError, match="2 processes would wait .* tlx data prepare --config=C --to=PLACE"):
        check_text_size(data, _bytes(), 2)
    for split in ("train", "validation"):
        open_caches(data, _bytes(), split)
    check_text_size(data, _bytes(), 2)  # nobody waits for what is there
    check_text_size(dataclasses.replace(data, add_eos=False, tokens="anywhere"), _bytes(), 2)
