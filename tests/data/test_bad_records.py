"""Text that somebody could bring: read right, or named in one line, or skipped, counted and limited."""

import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from tlx.base.errors import ConfigError, DataError
from tlx.data import DataConfig, TextConfig, WeightedSource, open_caches
from tlx.data.bad_records import BadRecordPolicy, is_invisible, surrogate_in
from tlx.data.readers import RecordsConfig, read_files
from tlx.data.records import read_records
from tlx.text import TokenizerConfig, make_tokenizer

BYTES = make_tokenizer(TokenizerConfig(kind="bytes"), ())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """cache(name, content, **config): the texts of a file and the meta of its token cache."""
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))

    def open_cache(name, content, action="error", limit=1000, **text):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        text = TextConfig(files=(str(path),), validation_files=(str(path),), **text)
        data = DataConfig(
            source="text", text=text, on_bad_record=action, max_bad_records=limit, add_eos=False
        )
        (opened,) = open_caches(data, BYTES, "train")
        ends = opened.offsets.tolist()
        texts = [BYTES.decode(opened.tokens[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        return texts, opened.meta.get("skipped", {})

    return open_cache


def jsonl(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


BOM = "\ufeff"


@pytest.mark.parametrize(
    ("name", "content", "text", "expected"),
    [
        ("a.txt", BOM + "hello\r\n", {}, ["hello\r\n"]),
        ("a.txt", "one\r\ntwo\r\n\r\n", {"one_document_per_line": True}, ["one", "two"]),
        ("a.txt", BOM + "one\n" + BOM + "two", {"one_document_per_line": True}, ["one", BOM + "two"]),
        ("a.tsv", "hi\tthere\r\nyes\tno\r\n", {}, None),
        ("a.jsonl", BOM + '{"text": "a"}\r\n', {}, ["a"]),
        ("a.txt", "nul \0 inside", {}, ["nul \0 inside"]),
        ("a.txt", "cafe\u0301 \u1107\u116e", {}, ["cafe\u0301 \u1107\u116e"]),
        # As runs of before read them, which go on with the same tokens.
        ("a.txt", BOM + "hello", {"clean": False}, [BOM + "hello"]),
        ("a.txt", "one\r\ntwo", {"one_document_per_line": True, "clean": False}, ["one\r", "two"]),
        ("a.jsonl", jsonl({"text": "\u200b"}, {"text": "a"}), {"clean": False}, ["\u200b", "a"]),
    ],
)
def test_texts_are_what_their_files_mean(name, content, text, expected, cache):
    if expected is not None:
        assert cache(name, content, **text) == (expected, {})
        return
    with pytest.raises(DataError):  # a tokenizer of bytes has no separator of turns
        cache("b.tsv", b"\xff\tx")
    texts, _ = cache(name, content, **text)
    assert not any("\r" in document for document in texts)


@pytest.mark.parametrize("blank", ["", " \n", "\u200b\u200d", "\ufeff", "\0", "\u2060 \u00ad"])
def test_texts_without_a_visible_character_are_left_out_and_counted(blank, cache, caplog):
    texts, skipped = cache("a.jsonl", jsonl({"text": blank}, {"text": "seen"}))
    assert texts == ["seen"] and skipped == {"num_bad": 0, "num_blank": 1, "examples": []}
    assert "left out 1 empty documents" in caplog.text
    assert is_invisible(blank) and not is_invisible(blank + "x")


BAD = [
    (
        "a.jsonl",
        jsonl({"text": "one"}) + '{"text": "\\ud83d bad"}\n' + jsonl({"text": "two"}),
        "half a surrogate",
    ),
    ("a.jsonl", jsonl({"text": "one"}, {"text": None}, {"text": "two"}), "'text' is NoneType, not text"),
    ("a.jsonl", jsonl({"text": "one"}, {"txt": "x"}, {"text": "two"}), "has no such field"),
    ("a.jsonl", jsonl({"text": "one"}) + "{\n" + jsonl({"text": "two"}), "is not JSON"),
    ("a.jsonl", jsonl({"text": "one"}) + "[" * 100_000 + "\n" + jsonl({"text": "two"}), "is not JSON"),
    (
        "a.jsonl",
        jsonl({"text": "one"}).encode() + b'{"text": "\xff"}\n' + jsonl({"text": "two"}).encode(),
        "UTF-8",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_records_are_named_or_skipped_and_counted(name, content, message, cache, caplog):
    with pytest.raises(DataError, match=rf"a\.jsonl:2.*{message}"):
        cache(name, content)
    texts, skipped = cache(name, content, "skip")
    assert texts == ["one", "two"] and skipped["num_bad"] == 1
    assert "skipped 1 bad records" in caplog.text and message in caplog.text
    caplog.clear()
    cache(name, content, "skip")  # of the cache too
    assert "skipped 1 bad records" in caplog.text
    for _ in range(2):  # when the cache is written, and when it is read
        with pytest.raises(DataError, match=r"more than data\.max_bad_records = 0"):
            cache(name, content, "skip", 0)
    with pytest.raises(DataError, match=message):
        cache(name, content, "keep")


def test_a_bad_half_leaves_out_the_pair(cache):
    rows = [
        {"text": "a", "de": "b"},
        {"text": "c", "de": None},
        {"text": "d", "de": "\ud800"},
        {"text": "e", "de": "f"},
    ]
    texts, skipped = cache("a.jsonl", jsonl(*rows), "skip", target_column="de")
    assert texts == ["a", "b", "e", "f"] and skipped["num_bad"] == 2


def test_a_text_of_which_the_tokenizer_makes_nothing(tmp_path):
    from tests.data.corpus import CountingTokenizer, Lengths
    from tlx.data.tokenize import write_cache

    source = Lengths([3, 0, 2])
    (tmp_path / "error").mkdir()
    with pytest.raises(DataError, match="the tokenizer makes no tokens of it"):
        write_cache(tmp_path / "error", source, CountingTokenizer(), False)
    (tmp_path / "skip").mkdir()
    write_cache(tmp_path / "skip", source, CountingTokenizer(), False, BadRecordPolicy("skip"))
    meta = json.loads((tmp_path / "skip" / "meta.json").read_text())
    assert meta["num_documents"] == 2 and meta["skipped"]["num_bad"] == 1


def test_utf_16_says_so(cache):
    with pytest.raises(DataError, match="is not UTF-8.*begins like UTF-16: convert it"):
        cache("a.txt", "hello".encode("utf-16"))


def test_half_a_pair_is_found():
    assert surrogate_in("ab\ud83d").endswith("'\\ud83d' at character 2")
    assert surrogate_in("a\U0001f600") == surrogate_in("") == ""


def test_a_policy_that_is_none():
    with pytest.raises(ConfigError, match="data.max_bad_records = -1 must be 0 or more"):
        DataConfig(max_bad_records=-1).validate()
    assert DataConfig(mixture=(WeightedSource(),), on_bad_record="skip").bad_records == ("skip", 1000)


# --------------------------------------------------------------------------------------------- records


@pytest.fixture
def read(tmp_path):
    def write_and_read(name, content, action="error", **config):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        files = (str(tmp_path / name),)
        records = read_files(files, RecordsConfig(**config), "data.records.train", BadRecordPolicy(action))
        return [dict(record.values) for record in records]

    return write_and_read


@pytest.mark.parametrize(
    ("name", "content", "good", "message"),
    [
        (
            "a.csv",
            "a,b\n1,2\n3\n4,5\n",
            [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}],
            r"a\.csv:3 has 1 field",
        ),
        ("a.jsonl", '{"a": 1}\nx\n{"a": 2}\n', [{"a": 1}, {"a": 2}], r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", '{"a": 1}\n{"a": 3, "a": 4}\n', [{"a": 1}], r"a\.jsonl:2 has two values of the key 'a'"),
        ("a.jsonl", '{"a": 1}\n' + "9" * 5000, [{"a": 1}], r"a\.jsonl:2 cannot be read as JSON"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 100_000, [{"a": 1}], r"a\.jsonl:2 cannot be read as JSON"),
        ("a.json", '[{"a": 1}, 3]', [{"a": 1}], r"a\.json\[1\] is int"),
        (
            "a.conll",
            "a O\n\nb\nc O\n\nd O\n",
            [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["d"], "tags": ["O"]}],
            r"a\.conll:3 has 1 columns",
        ),
    ],
)
def test_broken_records_are_named_or_skipped(name, content, good, message, read, caplog):
    with pytest.raises(DataError, match=message):
        read(name, content)
    assert read(name, content, "skip") == good
    assert "data.records.train: skipped 1 bad records" in caplog.text


def test_a_column_named_twice(read, tmp_path):
    content = "\ufefftext,label,label,,\na,1,2,x,y\n"
    with pytest.raises(DataError, match=r"a\.csv:1 names 2 columns 'label'.*data\.records\.columns"):
        read("a.csv", content)
    assert read("a.csv", content, "keep") == [{"text": "a", "label": "2"}]  # as before
    assert read("a.csv", "text,,\na,x,y\n") == [{"text": "a"}]  # columns without a name are skipped
    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"names 2 columns 'text'"):
        read_files((str(tmp_path / "a.parquet"),), RecordsConfig(), "data.records.train")


def test_a_folder_of_records(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "a.csv").write_text("text\na\n")
    (tmp_path / "sets" / "b.jsonl").write_text('{"text": "b"}\n')
    (tmp_path / "sets" / "README.md").write_text("no")
    records = read_files((f"{tmp_path}/sets/",), RecordsConfig(), "data.records.train")
    assert [record.values["text"] for record in records] == ["a", "b"]


def test_records_that_a_task_cannot_use_are_skipped_within_the_limit(tmp_path, caplog):
    rows = [{"text": f"t{number}", "label": number % 3} for number in range(60)]
    (tmp_path / "a.jsonl").write_text(jsonl(*rows))
    config = RecordsConfig(train=(str(tmp_path / "a.jsonl"),), validation=(str(tmp_path / "a.jsonl"),))

    def check(record):
        if record.values["label"] == 2:
            raise DataError(f"{record.where} has the label 2")

    def labels(action, limit=100):
        records = read_records(config, "train", 0, BadRecordPolicy(action, limit), check)
        return [record.values["label"] for record in records]

    assert labels("skip") == [0, 1] * 20 and "data.records.train: skipped 20 bad records" in caplog.text
    assert labels("keep") == [row["label"] for row in rows]
    with pytest.raises(DataError, match="jsonl:3 has the label 2"):
        labels("error")
    with pytest.raises(
        DataError, match="more than data.max_bad_records = 19 records cannot be used, such as"
    ):
        labels("skip", 19)
    assert logging.getLogger("tlx").name
