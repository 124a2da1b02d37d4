"""Records from files of every format, and what is said of a file that does not fit."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from tlx.base.errors import ConfigError, DataError
from tlx.data.readers import Record, RecordsConfig, read_files


@pytest.fixture
def read(tmp_path):
    """read(name, content, **config) writes a file and reads it: its records' values."""

    def write_and_read(name, content, **config):
        key = config.pop("key", "")
        data = content if isinstance(content, bytes) else content.encode(config.get("encoding", "utf-8"))
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        found = read_files((str(tmp_path / name) + key,), RecordsConfig(**config), "data.records.train")
        return [dict(record.values) for record in found]

    return write_and_read


ROWS = [{"text": "가 나", "label": "1"}, {"text": "c", "label": "0"}]


@pytest.mark.parametrize(
    ("name", "content", "config"),
    [
        ("a.jsonl", '{"text": "가 나", "label": "1"}\n\n{"text": "c", "label": "0"}\n', {}),
        ("a.jsonl.gz", '{"text": "가 나", "label": "1"}\n{"text": "c", "label": "0"}', {}),
        ("a.jsonl", '["가 나", 5, "1"]\n["c", 6, "0"]\n', {"columns": ("text", "", "label")}),
        ("a.json", json.dumps(ROWS), {}),
        ("a.json", json.dumps({"train": ROWS, "val": []}), {"key": "::train"}),
        ("a.tsv", "text\tlabel\n가 나\t1\nc\t0\n", {}),
        ("a.tsv", "\ufefftext\tlabel\r\n가 나\t1\r\nc\t0", {}),
        ("a.csv", 'text,label\n"가 나",1\nc,0\n', {}),
        ("a.csv", "가 나,x,1\nc,y,0\n", {"columns": ("text", "", "label")}),
        ("a.txt", "text\tlabel\n가 나\t1\nc\t0\n", {"format": "tsv"}),
        ("a.tsv", "text\tlabel\n가 나\t1\nc\t0\n", {"encoding": "utf-16"}),
    ],
)
def test_the_same_records_from_every_format(name, content, config, read):
    assert read(name, content, **config) == ROWS


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    found = read_files((str(tmp_path / "*.parquet"),), RecordsConfig(), "data.records.train")
    assert [record.values for record in found] == ROWS
    assert [record.where.rsplit(":", 1)[1] for record in found] == ["1", "2"]


def test_quotes_enclose_fields_or_are_text(read):
    assert read("a.tsv", 'a\tb\n"x\ty ""z"""\t1\n') == [{"a": 'x\ty "z"', "b": "1"}]
    assert read("a.tsv", 'a\tb\n"x\t1\n', quoting=False) == [{"a": '"x', "b": "1"}]
    long = "x" * 200_000  # beyond the csv module's own limit
    assert read("a.csv", f"a,b\n{long},1\n") == [{"a": long, "b": "1"}]


def test_lines_have_their_file_as_a_column(read):
    assert read("rt.pos.gz", "good one\n\nfine\n", format="lines") == [
        {"text": "good one", "file": "rt.pos"},
        {"text": "fine", "file": "rt.pos"},
    ]


CONLL = "# id = 1\n## x\ty z\n#tag\tO\n \tO\nKim\tB-PER\n\n\nhe\tO\n"


def test_conll(read):
    assert read("a.conll", CONLL) == [
        {"tokens": ["#tag", " ", "Kim"], "tags": ["O", "O", "B-PER"]},
        {"tokens": ["he"], "tags": ["O"]},
    ]
    assert read("a.conll", "1 he O -\n2 is O -\n", columns=("", "tokens", "tags")) == [
        {"tokens": ["he", "is"], "tags": ["O", "O"]}
    ]


def squad(answers, **more):
    question = {"id": "q", "question": "who?", "answers": answers, **more}
    return {"data": [{"title": "t", "paragraphs": [{"context": "Kim came", "qas": [question]}]}]}


def test_squad(read):
    answered = squad([{"text": "Kim", "answer_start": 0}])
    expected = {"id": "q", "title": "t", "context": "Kim came", "question": "who?"}
    found = read("a.json", json.dumps(answered), format="squad")
    assert found == [expected | {"answers": ["Kim"], "starts": [0]}]
    found = read("a.json", json.dumps(squad([], is_impossible=True)), format="squad")
    assert found == [expected | {"answers": [], "starts": []}]


@pytest.mark.parametrize(
    ("name", "content", "config", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a"\n', {}, r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", "[1]\n", {}, r"a\.jsonl:1 is list, expected an object.*data\.records\.columns"),
        ("a.jsonl", "[1]\n", {"columns": ("a", "b")}, r"a\.jsonl:1 has 1 items, expected 2: a, b"),
        ("a.json", '{"train": []}', {"key": "::trian"}, "did you mean 'train'"),
        ("a.json", '{"train": 3}', {"key": "::train"}, "is int, expected a list"),
        ("a.json", "[\n1,\n}", {}, "not JSON in line 3"),
        ("a.tsv", "a\tb\n1\t2\n1\t2\t3\n", {}, r"a\.tsv:3 has 3 fields separated by a tab, expected 2: a, b"),
        ("a.csv", "a,b\n1\n", {}, r"a\.csv:2 has 1 field separated by a comma, expected 2"),
        ("a.tsv", 'a\tb\n1\t2\n"1\t2\n', {}, r"a\.tsv:3: .*data\.records\.quoting = False"),
        ("a.tsv", 'a\tb\n"1" x\t2\n', {}, r"a\.tsv:2: .*data\.records\.quoting = False"),
        ("a.conll", "a\tO\n\nb\n", {}, r"a\.conll:3 has 1 columns, expected 2"),
        ("a.conll", "a O\nb x O\n", {}, r"a\.conll:2 has 3 columns, expected 2"),
        ("a.conll", "a O\n", {"columns": ("i", "tokens", "tags")}, "expected 3: i, tokens, tags"),
        ("a.json", '{"data": [{"title": "t"}]}', {"format": "squad"}, r"data\[0\] has no 'paragraphs'"),
        (
            "a.json",
            json.dumps(squad([{"text": "Kim"}])),
            {"format": "squad"},
            r"qas\[0\] has no 'answer_start'",
        ),
        ("a.txt", "x", {}, "ending = 'txt'.*data.records.format"),
        ("a.jsonl", "\n", {}, "has no records"),
        ("a.tsv", "a\tb\n\xe9\t1\n".encode("latin-1"), {}, "is not utf-8.*latin-1"),
    ],
)
def test_what_does_not_fit_is_named(name, content, config, message, read):
    with pytest.raises(DataError, match=message):
        read(name, content, **config)


def test_a_glob_without_files_and_a_column_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="matches no file"):
        read_files((str(tmp_path / "*.csv"),), RecordsConfig(), "data.records.train")
    record = Record("a.csv:7", {"document": "x", "label": 3})
    with pytest.raises(DataError, match=r"a\.csv:7 .* objective\.text = 'documnt'.*did you mean 'document'"):
        record.text("documnt", "objective.text")
    with pytest.raises(DataError, match="'label' is int, objective.text wants text"):
        record.text("label", "objective.text")


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    for content in ('{"a": 1}\n', '{"a": 1}\n{"a": 2}\n'):
        path.write_text(content)
        found = read_files((str(path),), RecordsConfig(), "data.records.train")
        assert len(found) == content.count("\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "jsn"}, "did you mean 'json"),
        ({"train": ()}, "data.records.train is empty"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
        ({"limit": -1}, "limit = -1"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        RecordsConfig(**{"train": ("a",), **changes}).validate()
