"""Stretches of plain text are held out: one file trains, and no file is lost to validation."""

import pathlib

import pytest

from tlx.base.errors import DataError
from tlx.base.saved_defaults import fill
from tlx.data import DataConfig, SourceConfig, TextConfig, open_caches, prepare_tokenizer
from tlx.data.sources import open_source
from tlx.data.stretches import split_stretches
from tlx.data.tokenize import documents
from tlx.text import TokenizerConfig

LINES = "".join(f"line {number} of the text\n" for number in range(400))


def splits(files, **text):
    config = SourceConfig("text", text=TextConfig(files=files, **text))
    return {split: list(documents(open_source(config, split))) for split in ("train", "validation")}


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.replace("\n", " "),
        LINES.replace("\n", "\r\n"),
        "한국어" * 3000,
        "x" * 200_000,
        "a b",
        "ab",
    ],
    ids=["lines", "words", "crlf", "no spaces", "long", "two words", "two letters"],
)
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
def test_stretches_are_the_text_and_both_splits_have_some(text, fraction):
    stretches = split_stretches(text, "a.txt", fraction)
    assert "".join(text[part.start : part.stop] for part in stretches) == text
    assert [part.start for part in stretches[1:]] == [part.stop for part in stretches[:-1]]
    held = sum(part.stop - part.start for part in stretches if part.held_out)
    assert 0 < held < len(text)
    if len(text) > 1000:
        assert held / len(text) == pytest.approx(fraction, abs=0.03)
    if "\n" in text:
        assert all(text[part.stop - 1] == "\n" for part in stretches)
    elif " " in text:
        assert all(text[part.stop - 1] == " " for part in stretches[:-1])
    assert stretches == split_stretches(text, "a.txt", fraction)


@pytest.mark.parametrize("text", ["", " ", "a", " \n a \n"])
def test_what_is_too_short_is_not_cut(text):
    assert not any(part.held_out for part in split_stretches(text, "a", 0.05))


def test_a_long_text_is_held_out_in_many_places():
    stretches = split_stretches("word " * 800_000, "a", 0.05)
    assert sum(part.held_out for part in stretches) == 3
    assert max(part.stop - part.start for part in stretches if part.held_out) < 70_000
    starts = [part.start for part in stretches if part.held_out]
    assert starts != [part.start for part in split_stretches("word " * 800_000, "b", 0.05) if part.held_out]


def test_one_file_trains(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "input.txt"
    path.write_text(LINES)
    both = splits((str(path),))
    assert "".join(document.text for document in both["train"]).replace(LINES, "") and both["validation"]
    assert sum(len(document.text) for split in both.values() for document in split) == len(LINES)
    assert not {d.text for d in both["validation"]} & {d.text for d in both["train"]}
    assert both["validation"][0].name.startswith(f"{path}[")
    data = DataConfig(source="text", text=TextConfig(files=(str(path),)))
    tokenizer = prepare_tokenizer(TokenizerConfig(kind="bytes"), data)
    sizes = [open_caches(data, tokenizer, split)[0].num_bytes for split in ("train", "validation")]
    assert sum(sizes) == len(LINES) and 0.03 < sizes[1] / len(LINES) < 0.08
    with pytest.raises(DataError, match="has no documents: .*data.text.validation_files or raise"):
        whole = DataConfig(source="text", text=TextConfig(files=(str(path),), hold_out="documents"))
        open_caches(whole, tokenizer, "validation")


def test_no_file_of_a_few_is_lost_to_validation(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(LINES.replace("text", name))
    both = splits((f"{tmp_path}/*.txt",), validation_fraction=0.3)
    for documents_of_split in both.values():
        files = {pathlib.Path(document.name.partition("[")[0]).stem for document in documents_of_split}
        assert files == set("abc")
    # As before, whole files: one of the three is in no training text.
    before = splits((f"{tmp_path}/*.txt",), validation_fraction=0.3, hold_out="documents", clean=False)
    assert len(before["train"]) == 2 and len(before["validation"]) == 1


@pytest.mark.parametrize("count", [11, 40, 101])
def test_whole_files_are_held_out_where_there_are_many_short_ones(tmp_path, count):
    for number in range(count):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    both = splits((f"{tmp_path}/*.txt",))
    assert sorted(d.text for split in both.values() for d in split) == sorted(
        f"text {n}" for n in range(count)
    )
    assert 1 <= len(both["validation"]) <= 10
    if count == 101:  # by a hash of each name alone, as before
        assert both == splits((f"{tmp_path}/*.txt",), hold_out="documents", clean=False)


def test_records_and_lines_are_held_out_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(LINES)
    now = splits((str(path),), one_document_per_line=True)
    before = splits((str(path),), one_document_per_line=True, hold_out="documents", clean=False)
    assert now == before and len(now["train"]) + len(now["validation"]) == 400


def test_caches_of_older_runs_stay_valid(tmp_path):
    """The identity of a source, which keys its token cache, is as it was for a run without the new keys."""
    path = tmp_path / "a.txt"
    path.write_text("some text")
    stat = path.stat()
    saved = fill({"data": {"source": "text", "text": {"files": [str(path)]}}})["data"]
    assert saved["text"]["hold_out"] == "documents" and saved["text"]["clean"] is False
    text = TextConfig(**{**saved["text"], "files": (str(path),)})
    identity = open_source(SourceConfig("text", text=text), "train").identity
    assert identity == [[[str(path), stat.st_size, stat.st_mtime_ns]], [("text",), False, 0.05, "train"]]
    today = open_source(SourceConfig("text", text=TextConfig(files=(str(path),))), "train").identity
    assert today != identity


def test_a_folder_stands_for_its_files(tmp_path, caplog):
    (tmp_path / "corpus" / "sub" / ".hidden").mkdir(parents=True)
    (tmp_path / "corpus" / "a.txt").write_text("a")
    (tmp_path / "corpus" / "sub" / "b.jsonl").write_text('{"text": "b"}')
    (tmp_path / "corpus" / "sub" / ".hidden" / "c.txt").write_text("no")
    (tmp_path / "corpus" / ".d.txt").write_text("no")
    (tmp_path / "corpus" / "LICENSE").write_text("no")
    for name in (f"{tmp_path}/corpus/", f"{tmp_path}/corpus"):
        text = TextConfig(files=(name,), validation_files=(name,))
        found = documents(open_source(SourceConfig("text", text=text), "train"))
        assert [document.text for document in found] == ["a", "b"]
    assert "1 files of other endings are not read" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"data.text.files = '.*/empty' is a folder without a file with an end"
    ):
        open_source(SourceConfig("text", text=TextConfig(files=(f"{tmp_path}/empty",))), "train")
