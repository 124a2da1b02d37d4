"""Text files: plain text (.txt, .md, .py), .jsonl, .tsv and .parquet."""

import contextlib
import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from tlx.base.errors import DataError, one_of
from tlx.base.nearest_path import suggest_paths
from tlx.data.config import SourceConfig
from tlx.data.sources.source import Document, Split, held_out

_PLAIN = (".txt", ".md", ".py")
_RECORDS = (".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet")
_ENDINGS = (*_PLAIN, *(ending + ".gz" for ending in _PLAIN), *_RECORDS)


class TextSource:
    """Documents of all files that the globs match, sorted by path.

    Without validation files, documents are held out by a hash of the file's path below the common folder and
    of the record's number, so that the split does not depend on where the data is stored.
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
        self.parts = _matches(globs, f"data.text.{field}")
        self._root = os.path.commonpath([os.path.dirname(path) for path in self.parts])
        sizes = [os.stat(path) for path in self.parts]
        plain = all(path.endswith(_PLAIN) for path in self.parts) and (
            has_validation_files or split == "train"
        )
        self.name = f"text {', '.join(globs)} ({split})"
        self.num_bytes = sum(stat.st_size for stat in sizes) if plain else None
        self.identity = [
            [[path, stat.st_size, stat.st_mtime_ns] for path, stat in zip(self.parts, sizes, strict=True)],
            [self._columns, self._config.one_document_per_line, self._fraction, split],
        ]
        if config.text.turns_column:
            self._columns = (config.text.turns_column, *config.text.rating_columns)
            self.identity.append(self._columns)

    def read(self, part: str) -> Iterator[Document]:
        """Yield the documents of the file `part` that belong to the split."""
        relative_path = os.path.relpath(part, self._root)
        empty = True
        for record, documents in self._records(part):
            empty = False
            number = "" if record is None else f":{record}"
            texts = [text for document in documents for text in document.texts]
            blank = not all(text.strip() for text in texts)
            if texts and not blank and self._in_split(relative_path + number):
                for document in documents:
                    yield document._replace(name=part + number)
        if empty:
            raise DataError(f"{part} is empty")

    def _in_split(self, name: str) -> bool:
        if self._fraction is None:
            return True
        return held_out(name, self._fraction) == (self._split == "validation")

    def _records(self, path: str) -> Iterator[tuple[int | None, Sequence[Document]]]:
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
                with _open(path) as handle:
                    for number, line in enumerate(handle, start=1):
                        line = line.rstrip("\n")
                        turns = line.split("\t") if ending.endswith(".tsv") else [line]
                        yield number, [Document("", turns[0], tuple(turns[1:]))]
            else:
                with _open(path) as handle:
                    text = handle.read()
                if text:
                    yield None, [Document("", text)]
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error}") from error
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
            raise DataError(f"cannot read {path}: {error}") from error

    def _fields(
        self, path: str, records: Iterator[tuple[int, Mapping[str, Any]]]
    ) -> Iterator[tuple[int, Sequence[Document]]]:
        """Documents of records with named fields."""
        for number, record in records:
            where = f"{path}:{number}"
            if self._config.turns_column:
                yield number, [_conversation(record, self._columns, where)]
            else:
                yield number, [Document("", _text(record[name], name, where)) for name in self._columns]


def _matches(globs: Sequence[str], field: str) -> list[str]:
    """Absolute paths of all files, without duplicates, sorted."""
    paths: set[str] = set()
    for pattern in globs:
        matches = glob.glob(os.path.expanduser(pattern), recursive=True)
        files = [os.path.abspath(path) for path in matches if os.path.isfile(path)]
        if not files:
            raise DataError(f"{field} = {pattern!r} matches no file ({suggest_paths(pattern)})")
        paths.update(files)
    for path in sorted(paths):
        if not path.endswith(_ENDINGS):
            raise DataError(f"{path}: " + one_of("ending", os.path.splitext(path)[1], _ENDINGS))
    return sorted(paths)


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[str]]:
    """Open a file as text, decompressed, line ends unchanged."""
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as handle:
        yield handle


def _jsonl(path: str, columns: Sequence[str], optional: bool) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Pairs (line number, record); where `optional`, all fields but the first may be missing."""
    with _open(path) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where} is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{where} is not a JSON object")
            for column in columns[:1] if optional else columns:
                if column not in record:
                    raise DataError(
                        f"{where} has no such field: " + one_of("data.text.column", column, record)
                    )
            yield number, record


def _parquet(path: str, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Pairs (row number from 1, record with the given columns)."""
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for column in columns:
            if column not in names:
                raise DataError(f"{path} has no such column: " + one_of("data.text.column", column, names))
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
