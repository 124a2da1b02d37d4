"""Text in files: plain (.txt, .md, .py), .jsonl and .parquet."""

import contextlib
import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from tlx.base.errors import DataError, one_of
from tlx.data.config import SourceConfig
from tlx.data.sources.source import Document, Split, held_out

_PLAIN = (".txt", ".md", ".py")
_ENDINGS = (*_PLAIN, *(ending + ".gz" for ending in _PLAIN), ".jsonl", ".jsonl.gz", ".parquet")


class TextSource:
    """Documents of all files that the globs match, files by path, records in their order.

    Without validation files of their own, documents are held out by a hash of their file (its path below
    the files' common folder) and record.
    """

    def __init__(self, config: SourceConfig, split: Split):
        self._config = config.text
        self._split = split
        self._columns = tuple(filter(None, (config.text.column, config.text.target_column)))
        self.parallel = len(self._columns) == 2
        own_files = bool(config.text.validation_files)
        self._fraction = None if own_files else config.text.validation_fraction
        field = "validation_files" if own_files and split == "validation" else "files"
        globs = getattr(config.text, field)
        self.parts = _matches(globs, f"data.text.{field}")
        self._root = os.path.commonpath([os.path.dirname(path) for path in self.parts])
        sizes = [os.stat(path) for path in self.parts]
        plain = all(path.endswith(_PLAIN) for path in self.parts) and (own_files or split == "train")
        self.name = f"text {', '.join(globs)} ({split})"
        self.num_bytes = sum(stat.st_size for stat in sizes) if plain else None
        self.identity = [
            [[path, stat.st_size, stat.st_mtime_ns] for path, stat in zip(self.parts, sizes, strict=True)],
            [self._columns, self._config.lines, self._fraction, split],
        ]

    def read(self, part: str) -> Iterator[Document]:
        """Documents of the file `part` that belong to the split."""
        place = os.path.relpath(part, self._root)
        empty = True
        for record, texts in self._records(part):
            empty = False
            where = "" if record is None else f":{record}"
            if all(text.strip() for text in texts) and self._belongs(place + where):
                yield from (Document(part + where, text) for text in texts)
        if empty:
            raise DataError(f"{part} is empty")

    def _belongs(self, place: str) -> bool:
        return self._fraction is None or held_out(place, self._fraction) == (self._split == "validation")

    def _records(self, path: str) -> Iterator[tuple[int | None, Sequence[str]]]:
        """(number from 1 or None, its text or pair of texts) of each record, blank ones included."""
        if self.parallel and path.removesuffix(".gz").endswith(_PLAIN):
            raise DataError(
                f"{path} has no field {self._columns[1]!r}; data.text.target_column needs records"
            )
        try:
            if path.endswith(".parquet"):
                yield from _parquet(path, self._columns)
            elif path.removesuffix(".gz").endswith(".jsonl"):
                yield from _jsonl(path, self._columns)
            elif self._config.lines:
                with _open(path) as handle:
                    yield from enumerate(([line.rstrip("\n")] for line in handle), start=1)
            else:
                with _open(path) as handle:
                    text = handle.read()
                if text:
                    yield None, [text]
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error}") from error
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
            raise DataError(f"cannot read {path}: {error}") from error


def _matches(globs: Sequence[str], field: str) -> list[str]:
    """Absolute paths of all files, each once, sorted."""
    paths: set[str] = set()
    for pattern in globs:
        found = glob.glob(os.path.expanduser(pattern), recursive=True)
        files = [os.path.abspath(path) for path in found if os.path.isfile(path)]
        if not files:
            raise DataError(f"{field} = {pattern!r} matches no file (the current folder is {os.getcwd()})")
        paths.update(files)
    for path in sorted(paths):
        if not path.endswith(_ENDINGS):
            raise DataError(f"{path}: " + one_of("ending", os.path.splitext(path)[1], _ENDINGS))
    return sorted(paths)


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[str]]:
    """The file as text, unzipped, line ends untouched."""
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as handle:
        yield handle


def _jsonl(path: str, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    with _open(path) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number} is not JSON: {error}") from error
            yield number, [_text(record, column, f"{path}:{number}") for column in columns]


def _text(record: Any, column: str, where: str) -> str:
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object")
    if column not in record:
        raise DataError(f"{where} has no such field: " + one_of("data.text.column", column, record))
    if not isinstance(record[column], str):
        raise DataError(f"{where}: {column!r} is {type(record[column]).__name__}, not text")
    return record[column]


def _parquet(path: str, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for column in columns:
            if column not in names:
                raise DataError(f"{path} has no such column: " + one_of("data.text.column", column, names))
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=list(columns)):
            for texts in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                number += 1
                for column, text in zip(columns, texts, strict=True):
                    if not isinstance(text, str):
                        raise DataError(f"{path}:{number}: {column!r} is {type(text).__name__}, not text")
                yield number, texts
