"""Finds the files of globs, detects their format and reads their records."""

import functools
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence

import pyarrow

from tlx.base.errors import DataError, one_of
from tlx.data.bad_records import DEFAULT_POLICY, BadRecord, BadRecordPolicy, SkippedRecords
from tlx.data.file_names import matching_files
from tlx.data.readers.conll import read_conll
from tlx.data.readers.conll2012 import read_conll2012
from tlx.data.readers.gap import read_gap
from tlx.data.readers.json_file import read_json, read_jsonl
from tlx.data.readers.record import FORMATS, Record, RecordFiles
from tlx.data.readers.squad import read_squad
from tlx.data.readers.table import read_parquet, read_table
from tlx.data.readers.tfds import PREFIX as TFDS
from tlx.data.readers.tfds import read_tfds

# Endings of files that are read of a folder, if no format is set.
_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".conll")


def read_files(
    globs: Sequence[str], config: RecordFiles, field: str, policy: BadRecordPolicy = DEFAULT_POLICY
) -> list[Record]:
    """Read the records of all files, sorted by path.

    Args:
        globs: Globs, folders, "FILE.json::key", or "tfds:NAME::SPLIT".
        config: Format of the files and how to read them; its file names are not used.
        field: Config key of the globs, for messages.
        policy: Treatment of records that cannot be read.

    Returns:
        The records, those of data sets of TensorFlow Datasets last.

    Raises:
        DataError: A file is missing or malformed (names file and line), there is no record, or a bad one.
    """
    # Only the options that change how a file is read, so that splits of one file share the cache of _file.
    reading = RecordFiles(
        format=config.format, quoting=config.quoting, columns=config.columns, encoding=config.encoding
    )
    records: list[Record] = []
    skipped = SkippedRecords(field, policy)
    unique = policy.action != "keep"
    for path, key in _matches([name for name in globs if not name.startswith(TFDS)], field, config.format):
        stat = os.stat(path)
        records += skipped.filter(_file(path, key, (stat.st_size, stat.st_mtime_ns), reading, unique))
    for name in globs:
        if name.startswith(TFDS):
            dataset, _, split = name.removeprefix(TFDS).partition("::")
            records += read_tfds(dataset, split, config.data_dir, field)
    skipped.report()
    if not records:
        reason = f": {skipped.examples[0]}" if skipped.examples else ""
        raise DataError(f"{field} = {tuple(globs)} has no records{reason}")
    return records


@functools.lru_cache(maxsize=4)
def _file(
    path: str, key: str, stamp: tuple[int, int], config: RecordFiles, unique: bool
) -> tuple[Record | BadRecord, ...]:
    """Records of one file, cached while size and time of change (`stamp`) stay: splits share a file."""
    try:
        return tuple(_read(path, key, config, unique))
    except (UnicodeError, LookupError) as error:
        raise DataError(
            f"{path} is not {config.encoding} (data.records.encoding): {error}; latin-1 is another"
        ) from error
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _matches(globs: Sequence[str], field: str, format_name: str) -> list[tuple[str, str]]:
    """Pairs (absolute path, key of the records inside it) of all files, without duplicates, sorted."""
    endings = () if format_name else tuple(end + gz for end in _ENDINGS for gz in ("", ".gz"))
    matches: set[tuple[str, str]] = set()
    for pattern in globs:
        pattern, _, key = pattern.partition("::")
        matches.update((path, key) for path in matching_files([pattern], field, endings))
    return sorted(matches)


def _read(path: str, key: str, config: RecordFiles, unique: bool) -> Iterator[Record | BadRecord]:
    format_name = config.format or os.path.splitext(path.removesuffix(".gz"))[1].removeprefix(".")
    if format_name not in FORMATS:
        raise DataError(
            f"{path}: " + one_of("ending", format_name, FORMATS) + "; data.records.format sets it"
        )
    if format_name == "parquet":
        return read_parquet(path, unique)
    text = _text(path, config.encoding)
    if format_name == "jsonl":
        return read_jsonl(path, text, config.columns, unique)
    if format_name == "json":
        return read_json(path, text, key, config.columns, unique)
    if format_name == "squad":
        return read_squad(path, text)
    if format_name == "conll":
        return read_conll(path, text, config.columns)
    if format_name == "conll2012":
        return read_conll2012(path, text)
    if format_name == "gap":
        return read_gap(path, text)
    if format_name == "lines":
        return _lines(path, text)
    delimiter = "," if format_name == "csv" else "\t"
    return read_table(path, text, delimiter, config.quoting, config.columns, unique)


def _text(path: str, encoding: str) -> str:
    """Content of a text file, line ends unchanged, without a byte order mark."""
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding=encoding, newline="") as handle:
        return handle.read().removeprefix("\ufeff")


def _lines(path: str, text: str) -> Iterator[Record]:
    """Records with the columns "text" and "file" (name without folder and .gz), for one class per file."""
    name = os.path.basename(path).removesuffix(".gz")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Record(f"{path}:{number}", {"text": line.rstrip("\r"), "file": name})
