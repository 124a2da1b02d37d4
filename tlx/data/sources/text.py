"""Text files: plain text (.txt, .md, .py), .jsonl, .tsv, .parquet, and .arrow as Hugging Face datasets store it."""

import contextlib
import gzip
import io
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from tlx.base.errors import DataError, one_of
from tlx.base.place import parse, read_range
from tlx.data.bad_records import BadRecord, is_invisible, surrogate_in
from tlx.data.config import SourceConfig
from tlx.data.file_names import file_versions, matching_files
from tlx.data.sources.source import Document, Split, held_out, name_hash
from tlx.data.stretches import split_stretches

_PLAIN = (".txt", ".md", ".py")
_LINES = (".jsonl", ".tsv")
_TABLES = (".parquet", ".arrow")
_COMPRESSED = (".gz", ".zst")
_ENDINGS = (
    *(ending + compression for ending in (*_PLAIN, *_LINES) for compression in ("", *_COMPRESSED)),
    *_TABLES,
)
_SPLITS: tuple[Split, ...] = ("train", "validation")

# Plain text files up to which each is cut, whatever its size; up to which they are cut if the stretches have a
# useful length; and that length, in bytes.
_FEW_FILES = 10
_SEVERAL_FILES = 100
_USEFUL_STRETCH = 200
_BOM = b"\xef\xbb\xbf"
_REMEDY = (
    ": the fraction that is held out is too small for so little text; give data.text.validation_files or raise "
    "data.text.validation_fraction"
)


class TextSource:
    """Documents of all files that the globs match, sorted by path.

    Without validation files, stretches of plain text files or whole documents are held out by a hash of the
    file's path below the common folder and of the record's number, so that the split does not depend on where
    the data is stored.
    """

    def __init__(self, config: SourceConfig, split: Split):
        self._config = config.text
        self._split: Split = split
        self._columns = tuple(filter(None, (config.text.column, config.text.target_column)))
        self.parallel = len(self._columns) == 2
        has_validation_files = bool(config.text.validation_files)
        # None: all documents of the files belong to the split.
        self._fraction = None if has_validation_files else config.text.validation_fraction
        field = "validation_files" if has_validation_files and split == "validation" else "files"
        globs = getattr(config.text, field)
        self.parts = without_cached_tables(matching_files(globs, f"data.text.{field}", _ENDINGS))
        for path in self.parts:
            if not path.endswith(_ENDINGS):
                raise DataError(f"{path}: " + one_of("ending", os.path.splitext(path)[1], _ENDINGS))
        if len({"://" in path for path in self.parts}) > 1:
            raise DataError(
                f"data.text.{field} names files of this machine and of a bucket; copy them to one place"
            )
        self._root = os.path.commonpath([os.path.dirname(path) for path in self.parts])
        try:
            versions = file_versions(self.parts)
        except OSError as error:
            raise DataError(f"cannot read data.text.{field}: {error}") from error
        self.part_sizes = [version.size for version in versions]
        self._cuts, self._held_files = self._hold_out(self.part_sizes)
        plain = all(path.endswith(_PLAIN) for path in self.parts) and (
            has_validation_files or split == "train"
        )
        self.name = f"text {', '.join(globs)} ({split})"
        self.remedy = "" if has_validation_files else _REMEDY
        self.num_bytes = sum(self.part_sizes) if plain else None
        self.shares_parts = not has_validation_files
        self.identity = [
            # Size and time stand for the content: hashing a corpus at each start would take as long as
            # reading it.
            [[path, *version] for path, version in zip(self.parts, versions, strict=True)],
            [self._columns, self._config.one_document_per_line, self._fraction, split],
        ]
        if config.text.turns_column:
            self._columns = (config.text.turns_column, *config.text.rating_columns)
            self.identity.append(self._columns)
        # Added only where they change the documents, so that caches of older runs stay valid.
        if self._cuts or self._held_files:
            self.identity.append("stretches")
        if self._config.clean:
            self.identity.append("clean")

    def read(self, part: str) -> Iterator[Document | BadRecord]:
        """Yield the documents of the file `part` that belong to the split, and its bad records."""
        yield from (entry for _, entry in self.read_splits(part, (self._split,)))

    def read_splits(
        self, part: str, splits: Collection[Split] = _SPLITS
    ) -> Iterator[tuple[Split, Document | BadRecord]]:
        """Yield pairs of (split, document or bad record) of the file `part`, of these splits, in one pass."""
        # Not the absolute path: the same files in another folder have the same split.
        relative_path = os.path.relpath(part, self._root)
        empty = True
        for record, documents in self._records(part):
            empty = False
            number = "" if record is None else f":{record}"
            split = self._split_of(relative_path, record)
            if record is None and self._cuts and not isinstance(documents, BadRecord):
                yield from self._stretches(part, relative_path, documents[0].text, splits)
            elif split in splits:
                entries = [documents] if isinstance(documents, BadRecord) else documents
                for entry in self._checked(part + number, entries):
                    yield split, entry
        if empty:
            for split in splits:
                yield split, BadRecord(f"{part} is empty")

    def _hold_out(self, sizes: Sequence[int]) -> tuple[bool, frozenset[str]]:
        """Whether stretches of plain text files are held out, or else the paths of the files that are.

        Both are empty where a hash of each document's name decides.
        """
        if self._fraction is None or self._config.hold_out != "stretches":
            return False, frozenset()
        if self._config.one_document_per_line:
            return False, frozenset()
        plain = {
            os.path.relpath(path, self._root): size
            for path, size in zip(self.parts, sizes, strict=True)
            if _uncompressed(path).endswith(_PLAIN)
        }
        if not plain or len(plain) > _SEVERAL_FILES:
            return False, frozenset()
        mean_size = sum(plain.values()) / len(plain)
        if len(plain) <= _FEW_FILES or mean_size * self._fraction >= _USEFUL_STRETCH:
            return True, frozenset()
        # So few that by chance none might be held out.
        count = max(1, round(len(plain) * self._fraction))
        return False, frozenset(sorted(plain, key=name_hash)[: min(count, len(plain) - 1)])

    def _stretches(
        self, part: str, relative_path: str, text: str, splits: Collection[Split]
    ) -> Iterator[tuple[Split, Document | BadRecord]]:
        """Documents of the stretches of a file, with the split of each."""
        assert self._fraction is not None
        if self._is_blank(text):
            for split in splits:
                yield split, BadRecord(f"{part} has no visible text", blank=True)
            return
        for stretch in split_stretches(text, relative_path, self._fraction):
            piece = text[stretch.start : stretch.stop]
            split: Split = "validation" if stretch.held_out else "train"
            # White space between two stretches is no document of its own.
            if split in splits and not self._is_blank(piece):
                yield split, Document(f"{part}[{stretch.start}:{stretch.stop}]", piece)

    def _checked(
        self, name: str, documents: Sequence[Document | BadRecord]
    ) -> Iterator[Document | BadRecord]:
        """The documents of a record under their name, or what is wrong with the record."""
        bad = [document for document in documents if isinstance(document, BadRecord)]
        documents = [document for document in documents if isinstance(document, Document)]
        if bad:
            yield from bad
            return
        texts = [text for document in documents for text in document.texts]
        if any(self._is_blank(text) for text in texts):
            yield BadRecord(f"{name} is empty", blank=True)
            return
        problem = next(filter(None, map(surrogate_in, texts)), "")
        if problem:
            yield BadRecord(f"{name} {problem}")
            return
        for document in documents:
            yield document._replace(name=name)

    def _is_blank(self, text: str) -> bool:
        return is_invisible(text) if self._config.clean else not text.strip()

    def _split_of(self, name: str, record: int | None) -> Split:
        """The split of a record, or of a whole file where it is None."""
        if self._fraction is None:
            return self._split
        if record is None and self._held_files:
            return "validation" if name in self._held_files else "train"
        name = name if record is None else f"{name}:{record}"
        return "validation" if held_out(name, self._fraction) else "train"

    def _records(self, path: str) -> Iterator[tuple[int | None, Sequence[Document] | BadRecord]]:
        """Pairs (record number from 1, or None for a whole file; documents of the record), blank ones too."""
        ending = _uncompressed(path)
        if self.parallel and ending.endswith((*_PLAIN, ".tsv")):
            raise DataError(
                f"{path} has no field {self._columns[1]!r}; data.text.target_column needs records"
            )
        try:
            if path.endswith(_TABLES):
                yield from self._fields(path, _table(path, self._columns))
            elif ending.endswith(".jsonl"):
                yield from self._fields(path, _jsonl(path, self._columns, bool(self._config.turns_column)))
            elif ending.endswith(".tsv") or self._config.one_document_per_line:
                yield from self._lines(path, ending.endswith(".tsv"))
            else:
                with _open(path) as handle:
                    content = handle.read()
                if content:
                    text = _decoded(content.removeprefix(_BOM) if self._config.clean else content, path)
                    yield None, text if isinstance(text, BadRecord) else [Document("", text)]
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
            raise DataError(f"cannot read {path}: {error}") from error

    def _lines(self, path: str, turns: bool) -> Iterator[tuple[int, Sequence[Document] | BadRecord]]:
        """Documents of lines, or conversations of lines whose turns are separated by tabs."""
        with _open(path) as handle:
            for number, line in enumerate(handle, start=1):
                line = line.removesuffix(b"\n")
                if self._config.clean:
                    line = line.removesuffix(b"\r")
                    line = line.removeprefix(_BOM) if number == 1 else line
                text = _decoded(line, f"{path}:{number}")
                if isinstance(text, BadRecord):
                    yield number, text
                    continue
                first, *replies = text.split("\t") if turns else [text]
                # Lines without a character separate documents; they are no empty documents.
                yield number, [Document("", first, tuple(replies))] if text else []

    def _fields(
        self, path: str, records: Iterator[tuple[int, Mapping[str, Any] | BadRecord]]
    ) -> Iterator[tuple[int, Sequence[Document] | BadRecord]]:
        """Documents of records with named fields."""
        for number, record in records:
            where = f"{path}:{number}"
            if isinstance(record, BadRecord):
                yield number, record
                continue
            try:
                if self._config.turns_column:
                    yield number, [_conversation(record, self._columns, where)]
                else:
                    yield number, [Document("", _text(record[name], name, where)) for name in self._columns]
            except DataError as error:
                yield number, BadRecord(str(error))


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    """Open a file, decompressed; an object of a bucket is fetched whole."""
    content: Any = io.BytesIO(read_range(parse(path))) if "://" in path else path
    if path.endswith(".zst"):
        with pyarrow.input_stream(content, compression="zstd") as stream:
            yield io.BufferedReader(stream)  # pyright: ignore[reportArgumentType]
    elif path.endswith(".gz"):
        with gzip.open(content, "rb") as handle:
            yield handle
    elif content is path:
        with open(path, "rb") as handle:
            yield handle
    else:
        yield content


def _uncompressed(path: str) -> str:
    """The path without the ending of its compression."""
    return path.removesuffix(".gz").removesuffix(".zst")


def without_cached_tables(paths: Sequence[str]) -> list[str]:
    """Leave out the .arrow files beside a state.json that it does not name.

    Hugging Face's `save_to_disk` names the tables of a data set there; others in its folder are results that
    `datasets` keeps of earlier calls of `map` and `filter`.
    """
    kept = []
    tables: dict[str, frozenset[str] | None] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if name.endswith(".arrow") and folder not in tables:
            tables[folder] = _tables_of(folder)
        named = tables.get(folder)
        if not name.endswith(".arrow") or named is None or name in named:
            kept.append(path)
    return kept


def _tables_of(folder: str) -> frozenset[str] | None:
    """Names of the tables of a saved data set; None where the folder is none."""
    path = os.path.join(folder, "state.json")
    try:
        state = json.loads(read_range(parse(path)))
        return frozenset(entry["filename"] for entry in state["_data_files"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path} of a saved data set: {error!r}") from error


def _decoded(content: bytes, where: str) -> str | BadRecord:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        hint = ""
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = "; it begins like UTF-16: convert it to UTF-8"
        return BadRecord(f"{where} is not UTF-8: {error}{hint}")


def _jsonl(
    path: str, columns: Sequence[str], optional: bool
) -> Iterator[tuple[int, Mapping[str, Any] | BadRecord]]:
    """Pairs (line number, record); where `optional`, all fields but the first may be missing."""
    with _open(path) as handle:
        for number, line in enumerate(handle, start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            if line.strip():
                yield number, _parsed(line, columns[:1] if optional else columns, f"{path}:{number}")


def _parsed(line: bytes, columns: Sequence[str], where: str) -> Mapping[str, Any] | BadRecord:
    text = _decoded(line, where)
    if isinstance(text, BadRecord):
        return text
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRecord(f"{where} is not JSON: {error}")
    if not isinstance(record, dict):
        return BadRecord(f"{where} is not a JSON object")
    for column in columns:
        if column not in record:
            return BadRecord(f"{where} has no such field: " + one_of("data.text.column", column, record))
    return record


def _table(path: str, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Pairs (row number from 1, record with the given columns) of a .parquet or .arrow file."""
    with contextlib.ExitStack() as stack:
        remote = pyarrow.BufferReader(read_range(parse(path))) if "://" in path else None
        if path.endswith(".parquet"):
            file = stack.enter_context(pyarrow.parquet.ParquetFile(remote or path))
            names = file.schema_arrow.names
            batches = file.iter_batches(batch_size=1024, columns=list(columns))
        else:
            content = remote or stack.enter_context(pyarrow.memory_map(path))
            reader = stack.enter_context(_open_arrow(content))
            names = reader.schema.names
            batches = _arrow_batches(reader)
        for column in columns:
            if column not in names:
                raise DataError(f"{path} has no such column: " + one_of("data.text.column", column, names))
            if names.count(column) > 1:
                raise DataError(f"{path} has {names.count(column)} columns of the name {column!r}")
        number = 0
        for batch in batches:
            for values in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))


def _open_arrow(file: pyarrow.NativeFile) -> Any:
    """Open Arrow's stream format, which `datasets` writes, or its file format."""
    magic = file.read(6)
    file.seek(0)
    return pyarrow.ipc.open_file(file) if magic == b"ARROW1" else pyarrow.ipc.open_stream(file)


def _arrow_batches(reader: Any) -> Iterator[pyarrow.RecordBatch]:
    if isinstance(reader, pyarrow.ipc.RecordBatchFileReader):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} is {type(value).__name__}, not text")
    return value


def _conversation(record: Mapping[str, Any], columns: Sequence[str], where: str) -> Document:
    """Document of the turns in the first column and the ratings in the others."""
    turns = record[columns[0]]
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: {columns[0]!r} is {type(turns).__name__}, not a list of one or more turns")
    texts = [_text(turn, columns[0], where) for turn in turns]
    ratings = tuple(record.get(name) for name in columns[1:])
    for name, rating in zip(columns[1:], ratings, strict=True):
        if rating not in (0, 1, None):
            raise DataError(f"{where}: {name!r} is {rating!r}; a rating is 0, 1 or null")
    # True and False are ratings too.
    numbers = tuple(None if rating is None else int(rating) for rating in ratings)
    return Document("", texts[0], tuple(texts[1:]), numbers)
