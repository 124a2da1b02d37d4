"""Text files: plain text (.txt, .md, .py), .jsonl, .tsv and .parquet."""

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from tlx.base.errors import DataError, one_of
from tlx.data.bad_records import BadRecord, is_invisible, surrogate_in
from tlx.data.config import SourceConfig
from tlx.data.file_names import matching_files
from tlx.data.sources.source import Document, Split, held_out, name_hash
from tlx.data.stretches import split_stretches

_PLAIN = (".txt", ".md", ".py")
_RECORDS = (".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet")
_ENDINGS = (*_PLAIN, *(ending + ".gz" for ending in _PLAIN), *_RECORDS)

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
        self._split = split
        self._columns = tuple(filter(None, (config.text.column, config.text.target_column)))
        self.parallel = len(self._columns) == 2
        has_validation_files = bool(config.text.validation_files)
        # None: all documents of the files belong to the split.
        self._fraction = None if has_validation_files else config.text.validation_fraction
        field = "validation_files" if has_validation_files and split == "validation" else "files"
        globs = getattr(config.text, field)
        self.parts = matching_files(globs, f"data.text.{field}", _ENDINGS)
        for path in self.parts:
            if not path.endswith(_ENDINGS):
                raise DataError(f"{path}: " + one_of("ending", os.path.splitext(path)[1], _ENDINGS))
        self._root = os.path.commonpath([os.path.dirname(path) for path in self.parts])
        sizes = [os.stat(path) for path in self.parts]
        self._cuts, self._held_files = self._hold_out([stat.st_size for stat in sizes])
        plain = all(path.endswith(_PLAIN) for path in self.parts) and (
            has_validation_files or split == "train"
        )
        self.name = f"text {', '.join(globs)} ({split})"
        self.remedy = "" if has_validation_files else _REMEDY
        self.num_bytes = sum(stat.st_size for stat in sizes) if plain else None
        self.identity = [
            # Size and time stand for the content: hashing a corpus at each start would take as long as
            # reading it.
            [[path, stat.st_size, stat.st_mtime_ns] for path, stat in zip(self.parts, sizes, strict=True)],
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
        # Not the absolute path: the same files in another folder have the same split.
        relative_path = os.path.relpath(part, self._root)
        empty = True
        for record, documents in self._records(part):
            empty = False
            number = "" if record is None else f":{record}"
            if isinstance(documents, BadRecord):
                if self._in_split(relative_path, record):
                    yield documents
            elif record is None and self._cuts:
                yield from self._stretches(part, relative_path, documents[0].text)
            elif self._in_split(relative_path, record):
                yield from self._checked(part + number, documents)
        if empty:
            yield BadRecord(f"{part} is empty")

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
            if path.removesuffix(".gz").endswith(_PLAIN)
        }
        if not plain or len(plain) > _SEVERAL_FILES:
            return False, frozenset()
        mean_size = sum(plain.values()) / len(plain)
        if len(plain) <= _FEW_FILES or mean_size * self._fraction >= _USEFUL_STRETCH:
            return True, frozenset()
        # So few that by chance none might be held out.
        count = max(1, round(len(plain) * self._fraction))
        return False, frozenset(sorted(plain, key=name_hash)[: min(count, len(plain) - 1)])

    def _stretches(self, part: str, relative_path: str, text: str) -> Iterator[Document | BadRecord]:
        """Documents of the stretches of a file that belong to the split."""
        assert self._fraction is not None
        validation = self._split == "validation"
        if self._is_blank(text):
            yield BadRecord(f"{part} has no visible text", blank=True)
            return
        for stretch in split_stretches(text, relative_path, self._fraction):
            piece = text[stretch.start : stretch.stop]
            # White space between two stretches is no document of its own.
            if stretch.held_out == validation and not self._is_blank(piece):
                yield Document(f"{part}[{stretch.start}:{stretch.stop}]", piece)

    def _checked(self, name: str, documents: Sequence[Document]) -> Iterator[Document | BadRecord]:
        """The documents of a record under their name, or what is wrong with the record."""
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

    def _in_split(self, name: str, record: int | None) -> bool:
        """Whether a record, or a whole file where it is None, belongs to the split."""
        if self._fraction is None:
            return True
        if record is None and self._held_files:
            return (name in self._held_files) == (self._split == "validation")
        name = name if record is None else f"{name}:{record}"
        return held_out(name, self._fraction) == (self._split == "validation")

    def _records(self, path: str) -> Iterator[tuple[int | None, Sequence[Document] | BadRecord]]:
        """Pairs (record number from 1, or None for a whole file; documents of the record), blank ones too."""
        ending = path.removesuffix(".gz")
        if self.parallel and ending.endswith((*_PLAIN, ".tsv")):
            raise DataError(
                f"{path} has no field {self._columns[1]!r}; data.text.target_column needs records"
            )
        try:
            if path.endswith(".parquet"):
                yield from self._fields(path, _parquet(path, self._columns))
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
def _open(path: str) -> Iterator[IO[bytes]]:
    """Open a file, decompressed."""
    opener: Any = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as handle:
        yield handle


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


def _parquet(path: str, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Pairs (row number from 1, record with the given columns)."""
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for column in columns:
            if column not in names:
                raise DataError(f"{path} has no such column: " + one_of("data.text.column", column, names))
            if names.count(column) > 1:
                raise DataError(f"{path} has {names.count(column)} columns of the name {column!r}")
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=list(columns)):
            for values in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))


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
