"""Sources give every document once, hold the same ones out for ever, and name what they cannot read."""

import dataclasses
import gzip
import json
import pathlib
import subprocess
import sys
import textwrap

import pyarrow
import pyarrow.parquet
import pytest
from ml_collections import ConfigDict

from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError, DataError
from tlx.data import DataConfig, SourceConfig, TextConfig, TfdsConfig, WeightedSource
from tlx.data.readers import RecordsConfig
from tlx.data.records import read_records
from tlx.data.sources import open_source
from tlx.data.sources.docstrings import DocstringSource
from tlx.data.sources.python import EXCLUDED, PythonSource
from tlx.data.tokenize import documents


def _text(split="train", **kwargs):
    return open_source(SourceConfig(source="text", text=TextConfig(**kwargs)), split)


def _texts(source):
    return [document.text for document in documents(source)]


def _same(files, **kwargs):
    """A config whose splits are both all of `files`."""
    return {"files": (files,), "validation_files": (files,), **kwargs}


# ---------------------------------------------------------------------------------------------- python


def test_the_standard_library():
    splits = {split: open_source(SourceConfig(), split) for split in ("train", "validation")}
    parts = {split: set(source.parts) for split, source in splits.items()}
    assert not parts["train"] & parts["validation"]
    assert len(parts["train"]) > 300
    assert 0.05 < splits["validation"].num_bytes / splits["train"].num_bytes < 0.2
    assert not any(EXCLUDED & set(part.split("/")[:-1]) for part in parts["train"] | parts["validation"])
    assert {"argparse.py", "json/decoder.py"} <= parts["train"] | parts["validation"]
    found = list(documents(splits["validation"]))
    assert all(document.text.strip() for document in found)
    size = sum(len(document.text.encode()) for document in found)
    assert abs(size / splits["validation"].num_bytes - 1) < 0.01


def test_a_small_library(tmp_path):
    for i in range(60):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}\r\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\n# é\n".encode("latin-1"))
    for name in ("test", "site-packages", "__pycache__"):
        (tmp_path / "pkg" / name).mkdir(parents=True)
        (tmp_path / "pkg" / name / "a.py").write_text("no")
    both = [PythonSource(SourceConfig(), split, tmp_path) for split in ("train", "validation")]
    texts = sorted(_texts(both[0]) + _texts(both[1]))
    assert texts == sorted([f"x = {i}\r\n" for i in range(60)] + ["# -*- coding: latin-1 -*-\n# é\n"])
    assert 1 <= len(both[1].parts) <= 15
    before = both[0].identity
    (tmp_path / both[0].parts[0]).write_text("y = 100\n")
    assert PythonSource(SourceConfig(), "train", tmp_path).identity != before
    bad = tmp_path / both[0].parts[0]
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=f"cannot read {bad}"):
        _texts(both[0])


def test_no_library_at_all(tmp_path):
    with pytest.raises(DataError, match="has no .py files for train; use data.source = 'text'"):
        PythonSource(SourceConfig(), "train", tmp_path)


# ------------------------------------------------------------------------------------------------ text


def _write(path: pathlib.Path, content: str) -> None:
    if path.suffix == ".zst":
        # Two frames, as of two files that were joined.
        half = len(content) // 2
        path.write_bytes(b"".join(_zstd(part.encode()) for part in (content[:half], content[half:])))
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="\n") as handle:
        handle.write(content)


def _zstd(content: bytes) -> bytes:
    buffer = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return buffer.getvalue().to_pybytes()


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".md", ".py.gz", ".md.zst"])
def test_plain_text(tmp_path, ending):
    (tmp_path / "sub").mkdir()
    _write(tmp_path / "sub" / f"b{ending}", "one\r\ntwo\n\n한국어")
    _write(tmp_path / f"a{ending}", "zero\n")
    pattern = str(tmp_path / "**" / f"*{ending}")
    assert _texts(_text(**_same(pattern))) == ["zero\n", "one\r\ntwo\n\n한국어"]
    for clean, end in ((True, ""), (False, "\r")):
        lines = _text(**_same(pattern, one_document_per_line=True, clean=clean))
        assert [document[:2] for document in documents(lines)] == [
            (f"{tmp_path}/a{ending}:1", "zero"),
            (f"{tmp_path}/sub/b{ending}:1", "one" + end),
            (f"{tmp_path}/sub/b{ending}:2", "two"),
            (f"{tmp_path}/sub/b{ending}:4", "한국어"),
        ]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_jsonl(tmp_path, ending):
    path = tmp_path / f"a.jsonl{ending}"
    _write(path, '{"body": "one\\ntwo", "id": 1}\n\n{"body": " "}\n{"body": "한"}\n')
    source = _text(**_same(str(path), column="body"))
    assert [document[:2] for document in documents(source)] == [
        (f"{path}:1", "one\ntwo"),
        (f"{path}:4", "한"),
    ]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"id": list(range(3000)), "text": [f"t{i}" for i in range(3000)]})
    pyarrow.parquet.write_table(table, path, row_group_size=700)
    source = _text(**_same(str(path)))
    assert _texts(source) == [f"t{i}" for i in range(3000)]
    assert list(documents(source))[2999].name == f"{path}:3000"


def test_data_sets_that_were_saved_to_disk(tmp_path):
    """The folder that `datasets.Dataset.save_to_disk` writes, with what `map` left in it."""
    table = pyarrow.table({"id": list(range(60)), "text": [f"t{i}" for i in range(60)]})
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for start, name in zip((0, 30), names, strict=True):
        with pyarrow.ipc.new_stream(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table.slice(start, 30), max_chunksize=7)
    with pyarrow.ipc.new_file(str(tmp_path / "cache-1f2e.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert len(_texts(_text(**_same(str(tmp_path))))) == 120  # Arrow's file format is read too
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    assert _texts(_text(**_same(str(tmp_path)))) == [f"t{i}" for i in range(60)]
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="cannot read .*state.json of a saved data set"):
        _text(**_same(str(tmp_path)))


def test_held_out_documents_stay_held_out(tmp_path):
    def write(folder, count):
        folder.mkdir()
        _write(folder / "a.jsonl", "".join(json.dumps({"text": f"t{i}"}) + "\n" for i in range(count)))
        kwargs = {"files": (f"{folder}/*.jsonl",), "validation_fraction": 0.2}
        return {split: _texts(_text(split, **kwargs)) for split in ("train", "validation")}

    first = write(tmp_path / "x", 500)
    assert sorted(first["train"] + first["validation"]) == sorted(f"t{i}" for i in range(500))
    assert 60 < len(first["validation"]) < 140
    moved = write(tmp_path / "y", 600)  # elsewhere, with more behind
    assert moved["validation"][: len(first["validation"])] == first["validation"]


def test_own_validation_files(tmp_path):
    _write(tmp_path / "a.txt", "a")
    _write(tmp_path / "b.txt", "b")
    kwargs = {"files": (f"{tmp_path}/a.txt",), "validation_files": (f"{tmp_path}/b.txt",)}
    assert _texts(_text("train", **kwargs)) == ["a"]
    assert _texts(_text("validation", **kwargs)) == ["b"]


BAD_FILES = [
    ("a.txt", b"", "a.txt is empty"),
    ("a.jsonl", b"", "a.jsonl is empty"),
    ("a.txt", b"ab\xffcd", "a.txt is not UTF-8: .*position 2"),
    ("a.txt.gz", gzip.compress(b"hello" * 1000, mtime=0)[:-10], "cannot read .*a.txt.gz"),
    ("a.txt.gz", b"hello", "cannot read .*a.txt.gz"),
    ("a.parquet", b"hello", "cannot read .*a.parquet"),
    ("a.arrow", b"hello", "cannot read .*a.arrow"),
    ("a.jsonl.zst", b"hello", "cannot read .*a.jsonl.zst"),
    ("a.jsonl", b'{"text": "x"}\n{"text": }\n', "a.jsonl:2 is not JSON"),
    ("a.jsonl", b'["text"]\n', "a.jsonl:1 is not a JSON object"),
    ("a.jsonl", b'{"txt": "x"}\n', "a.jsonl:1 has no such field: .*'text' is not one of: txt; did you mean"),
    ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: 'text' is int, not text"),
    ("a.csv", b"x", "a.csv: ending = '.csv' is not one of: .txt"),
]


@pytest.mark.parametrize("name, content, message", BAD_FILES)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        _texts(_text(**_same(str(tmp_path / name))))


def test_bad_columns_of_parquet_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"content": ["x"], "n": [1], "some": [None]}), path)
    with pytest.raises(DataError, match="a.parquet has no such column: .*is not one of: content, n"):
        _texts(_text(**_same(str(path))))
    with pytest.raises(DataError, match="a.parquet:1: 'n' is int, not text"):
        _texts(_text(**_same(str(path), column="n")))
    with pytest.raises(DataError, match="a.parquet:1: 'some' is NoneType, not text"):
        _texts(_text(**_same(str(path), column="some")))


def test_a_glob_without_files(tmp_path):
    with pytest.raises(DataError, match=r"data.text.files = '.*/\*.txt' matches no file .the current folder"):
        _text(files=(f"{tmp_path}/*.txt",))


def test_half_a_surrogate_pair_is_named(tmp_path, monkeypatch):
    from tlx.data import open_caches, prepare_tokenizer
    from tlx.text import TokenizerConfig

    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "\\ud800"}\n')
    data = DataConfig(source="text", text=TextConfig(**_same(str(tmp_path / "a.jsonl"))))
    tokenizer = prepare_tokenizer(TokenizerConfig(kind="bytes"), data)
    with pytest.raises(DataError, match="a.jsonl:2 holds half a surrogate pair"):
        open_caches(data, tokenizer, "train")


def test_docstrings_are_pairs_of_code_and_what_it_says_of_itself(tmp_path):
    code = """
    def plain(x):
        "Says what it does."
        return x

    def silent(x):
        return x

    class Thing:
        async def method(self):
            '''Two lines.

            With a gap.'''
            # kept
            return await self

        def only_says(self):
            "And does nothing."
    """
    for name in "abcdefgh":
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
    source = DocstringSource(SourceConfig(), "train", tmp_path)
    assert source.parallel and source.parts
    texts = [document.text for document in source.read(source.parts[0])]
    assert texts == [
        "def plain(x):\n    return x",
        "Says what it does.",
        "    async def method(self):\n        # kept\n        return await self",
        "Two lines.\n\nWith a gap.",
    ]
    (tmp_path / source.parts[0]).write_text("def broken(:")
    with pytest.raises(DataError, match="cannot parse"):
        list(source.read(source.parts[0]))


# ------------------------------------------------------------------------------------------------ tfds


@pytest.fixture(scope="module", params=["array_record", "parquet"])
def tfds_folder(request, tmp_path_factory):
    """A tiny data set `toy_text/plain:1.0.0`, prepared by TFDS itself in a process of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    script = pathlib.Path(__file__).with_name("toy_text.py")
    subprocess.run([sys.executable, script, folder, request.param], check=True, timeout=120)
    return folder


def _tfds(folder, **kwargs):
    return TfdsConfig(**{"name": "toy_text:plain", "data_dir": str(folder), **kwargs})


@pytest.mark.slow
def test_conversations_of_tfds(tfds_folder):
    source = open_source(SourceConfig("tfds", tfds=_tfds(tfds_folder, turns_column="turns")), "train")
    found = list(documents(source))
    assert len(found) == 30 and not source.parallel
    assert sorted(document.texts for document in found) == sorted(
        (f"안녕 {i}", "hi", "👋") for i in range(30)
    )
    with pytest.raises(DataError, match="data.tfds.turns_column = 'talk'"):
        open_source(SourceConfig("tfds", tfds=_tfds(tfds_folder, turns_column="talk")), "train")


def test_labelled_records_of_tfds(tfds_folder):
    where = {"data_dir": str(tfds_folder), "validation_fraction": 0.3}
    config = RecordsConfig(train=("tfds:toy_text:plain::train",), **where)
    records = {part: read_records(config, part, 0) for part in ("train", "validation")}
    assert sum(map(len, records.values())) == 30 and len(records["validation"]) > 0
    for record in sum(records.values(), []):
        number = record.values["id"]
        assert record.values == {
            "text": f"문서 {number} of 30",
            "id": number,
            "label": ("even", "odd")[number % 2],
            "turns": [f"안녕 {number}", "hi", "👋"],
        }
        assert record.where.startswith("tfds:toy_text:plain::train record ")
    whole = dataclasses.replace(config, validation=("tfds:toy_text::validation",))
    assert len(read_records(whole, "validation", 0)) == 5
    wrong = {"tfds:toy_text:plain": "names no split: write", "tfds:toy::train": "cannot be read"}
    for name, message in wrong.items():
        with pytest.raises(DataError, match=f"data.records.train.*{message}"):
            read_records(dataclasses.replace(config, train=(name,)), "train", 0)


@pytest.mark.slow
def test_tfds_without_tensorflow(tfds_folder):
    script = textwrap.dedent(
        f"""
        import sys
        from tlx.data import SourceConfig, TfdsConfig
        from tlx.data.sources import open_source
        from tlx.data.tokenize import documents

        config = SourceConfig("tfds", tfds=TfdsConfig("toy_text:plain", {str(tfds_folder)!r}))
        for split, count in (("train", 30), ("validation", 5)):
            source = open_source(config, split)
            found = list(documents(source))
            assert sorted(d.text for d in found) == sorted(f"문서 {{i}} of {{count}}" for i in range(count))
            assert [d.text for d in documents(open_source(config, split))] == [d.text for d in found]
            assert found[0].name == f"tfds toy_text:plain [{{split}}] record 0"
        assert "tensorflow" not in sys.modules and "torch" not in sys.modules
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_tfds_slices_and_errors(tfds_folder):
    def source(**kwargs):
        return open_source(SourceConfig("tfds", tfds=_tfds(tfds_folder, **kwargs)), "train")

    assert source().identity == source(name="toy_text/plain:1.0.0").identity
    if "parquet" in str(tfds_folder):  # TFDS would give all of the split, validation slice included
        with pytest.raises(DataError, match="should have 15 records but TFDS reads 30"):
            source(train_split="train[:50%]")
    else:
        sliced = source(train_split="train[:50%]")
        assert len(list(documents(sliced))) == 15 and sliced.identity != source().identity
    with pytest.raises(DataError, match="'body' is not one of: "):
        source(column="body")
    with pytest.raises(DataError, match=r"tfds toy_text:plain \[test\] cannot be opened"):
        source(train_split="test")
    with pytest.raises(DataError, match=r"tfds nowhere \[train\] cannot be opened"):
        source(name="nowhere")


def test_tfds_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(
        DataError, match=r"needs the package tensorflow-datasets.*pip install 'tlx-lm\[tfds\]'"
    ):
        open_source(SourceConfig("tfds", tfds=TfdsConfig("toy_text")), "train")


# ---------------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    "config, message",
    [
        (DataConfig(sequence_length=1), "data.sequence_length = 1 must lie in 2..16777216"),
        (DataConfig(workers=-1), "data.workers = -1 must be 0"),
        (DataConfig(source="text"), "data.text.files is empty"),
        (DataConfig(source="tfds"), "data.tfds.name is empty"),
        (
            DataConfig(mixture=(WeightedSource(), WeightedSource(weight=0.0))),
            r"mixture\[1\].weight = 0.0 must be",
        ),
        (DataConfig(text=TextConfig(validation_fraction=1.0)), "validation_fraction = 1.0 must lie between"),
    ],
)
def test_config_errors_name_the_field(config, message):
    with pytest.raises(ConfigError, match=message):
        config.validate()


def test_a_mixture_from_a_config_file():
    values = ConfigDict(to_dict(DataConfig()))
    values.mixture = ({"weight": 3.0}, {"source": "text", "text": {"files": ("a.txt",)}})
    config = from_dict(DataConfig, values.to_dict())
    config.validate()
    assert [(source.source, source.weight) for source in config.sources] == [("python", 3.0), ("text", 1.0)]
    assert config.sources[1].text.files == ("a.txt",)
    assert from_dict(DataConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert DataConfig(source="tfds").sources == (WeightedSource("tfds"),)
    with pytest.raises(
        ConfigError, match=r"config.mixture\[0\] = 'wight' is not one of: .*did you mean 'weight'"
    ):
        from_dict(DataConfig, {"mixture": ({"wight": 3.0},)})


def test_an_unknown_source_names_the_choices():
    with pytest.raises(
        ConfigError, match="data.source = 'pyton' is not one of: docstrings, python, text, tfds"
    ):
        open_source(SourceConfig("pyton"), "train")


def test_a_target_column_makes_pairs(tmp_path):
    import json

    records = [{"text": "a", "de": "b"}, {"text": " ", "de": "c"}, {"text": "d", "de": "e"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    table = pyarrow.table({name: [record[name] for record in records] for name in ("text", "de")})
    pyarrow.parquet.write_table(table, tmp_path / "pairs.parquet")
    for name in ("pairs.jsonl", "pairs.parquet"):
        files = str(tmp_path / name)
        text = TextConfig(files=(files,), validation_files=(files,), target_column="de")
        source = open_source(SourceConfig("text", text=text), "train")
        assert source.parallel
        assert _texts(source) == ["a", "b", "d", "e"]
    plain = TextConfig(files=(files,), validation_files=(files,))
    assert open_source(SourceConfig("text", text=plain), "train").identity != source.identity
    (tmp_path / "pairs.txt").write_text("a\n")
    text = TextConfig(files=(str(tmp_path / "pairs.txt"),), target_column="de")
    with pytest.raises(DataError, match="no field 'de'"):
        list(open_source(SourceConfig("text", text=text), "train").read(str(tmp_path / "pairs.txt")))


def test_files_of_a_bucket(tmp_path):
    """The same documents, held out the same way, as of the files on a disk."""
    from tlx.base import place as places

    bucket = places.parse(f"memory://bucket/{tmp_path.name}")
    lines = "".join(json.dumps({"text": f"t{i}"}) + "\n" for i in range(300))
    _write(tmp_path / "a.jsonl.gz", lines)
    _write(tmp_path / "b.jsonl.zst", lines)
    (tmp_path / "sub").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["p", "q"]}), tmp_path / "sub" / "c.parquet")
    (tmp_path / ".hidden.jsonl").write_text(lines)
    for path in tmp_path.rglob("*.*"):
        places.write(bucket / path.relative_to(tmp_path).as_posix(), path.read_bytes())
    for split in ("train", "validation"):
        expected = _texts(_text(split, files=(str(tmp_path),)))
        assert _texts(_text(split, files=(str(bucket),))) == expected
        source = _text(split, files=(f"{bucket}/**/*.parquet", f"{bucket}/?.jsonl.*"))
        assert _texts(source) == expected
        assert len(source.parts) == 3 and source.part_sizes == [
            (tmp_path / part.removeprefix(f"{bucket}/")).stat().st_size for part in source.parts
        ]
    before = source.identity
    places.write(bucket / "a.jsonl.gz", b"other")
    assert _text("train", files=(f"{bucket}/?.jsonl.*",)).identity != before
    with pytest.raises(DataError, match="data.text.files = 'memory://.*' matches no object"):
        _text(files=(f"{bucket}/*.txt",))
    with pytest.raises(DataError, match="names files of this machine and of a bucket"):
        _text(files=(f"{bucket}/a.jsonl.gz", str(tmp_path / "a.jsonl.gz")))
