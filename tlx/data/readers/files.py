"""From globs to records: which files, which format, and their text."""

import functools
import glob
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence

import pyarrow

from tlx.base.errors import DataError, one_of
from tlx.data.readers.conll import read_conll
from tlx.data.readers.json_file import read_json, read_jsonl
from tlx.data.readers.record import FORMATS, Record, RecordFiles
from tlx.data.readers.squad import read_squad
from tlx.data.readers.table import read_parquet, read_table
from tlx.data.readers.tfds import PREFIX as TFDS
from tlx.data.readers.tfds import read_tfds


def read_files(globs: Sequence[str], config: RecordFiles, field: str) -> list[Record]:
    """All records of all files, files by path, records in their order.

    `field` names the globs in messages. DataError for what does not fit, with file, line and what was
    expected.
    """
    alike = ("format", "quoting", "columns", "encoding")
    how = RecordFiles(**{name: getattr(config, name) for name in alike})
    prepared = [name.removeprefix(TFDS) for name in globs if name.startswith(TFDS)]
    found = _matches([name for name in globs if not name.startswith(TFDS)], field)
    files = ((path, key, os.stat(path)) for path, key in found)
    parts = [_file(path, key, (stat.st_size, stat.st_mtime_ns), how) for path, key, stat in files]
    for name in prepared:
        name, _, split = name.partition("::")
        parts.append(read_tfds(name, split, config.data_dir, field))
    records = [record for part in parts for record in part]
    if not records:
        raise DataError(f"{field} = {tuple(globs)} has no records")
    return records


@functools.lru_cache(maxsize=4)
def _file(path: str, key: str, stamp: tuple[int, int], config: RecordFiles) -> tuple[Record, ...]:
    """A file's records, read once while it stays as it is: several splits are cut from one file."""
    try:
        return tuple(_read(path, key, config))
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(
            f"{path} is not {config.encoding} (data.records.encoding): {error}; latin-1 is another"
        ) from error
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _matches(globs: Sequence[str], field: str) -> list[tuple[str, str]]:
    """(path, key inside it) of all files, each once, sorted."""
    found: set[tuple[str, str]] = set()
    for pattern in globs:
        pattern, _, key = pattern.partition("::")
        paths = [path for path in glob.glob(os.path.expanduser(pattern), recursive=True)]
        files = [os.path.abspath(path) for path in paths if os.path.isfile(path)]
        if not files:
            raise DataError(f"{field} = {pattern!r} matches no file (the current folder is {os.getcwd()})")
        found.update((path, key) for path in files)
    return sorted(found)


def _read(path: str, key: str, config: RecordFiles) -> Iterator[Record]:
    kind = config.format or os.path.splitext(path.removesuffix(".gz"))[1].removeprefix(".")
    if kind not in FORMATS:
        raise DataError(f"{path}: " + one_of("ending", kind, FORMATS) + "; data.records.format says which")
    if kind == "parquet":
        return read_parquet(path)
    text = _text(path, config.encoding)
    if kind == "jsonl":
        return read_jsonl(path, text, config.columns)
    if kind == "json":
        return read_json(path, text, key, config.columns)
    if kind == "squad":
        return read_squad(path, text)
    if kind == "conll":
        return read_conll(path, text, config.columns)
    if kind == "lines":
        return _lines(path, text)
    return read_table(path, text, "," if kind == "csv" else "\t", config.quoting, config.columns)


def _text(path: str, encoding: str) -> str:
    """The whole file, its line ends as they are, without a byte order mark."""
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding=encoding, newline="") as handle:
        return handle.read().removeprefix("\ufeff")


def _lines(path: str, text: str) -> Iterator[Record]:
    """Columns "text" and "file", the file's name without its folder and .gz: one class a file."""
    name = os.path.basename(path).removesuffix(".gz")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Record(f"{path}:{number}", {"text": line.rstrip("\r"), "file": name})
