"""Readers of .csv, .tsv and .parquet files."""

import csv
import io
from collections.abc import Iterator, Sequence

import pyarrow.parquet

from tlx.base.errors import DataError
from tlx.data.bad_records import BadRecord
from tlx.data.readers.record import Record

_LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit is 128 Ki


def read_table(
    path: str, text: str, delimiter: str, quoting: bool, columns: Sequence[str], unique: bool = True
) -> Iterator[Record | BadRecord]:
    """Yield the rows of a table as records.

    Args:
        path: Path of the file, for messages.
        text: Content of the file.
        delimiter: Comma or tab.
        quoting: Whether quotes enclose fields; otherwise they are part of the text.
        columns: Names of the columns, "" for one to skip; empty: the first row names them.
        unique: Whether two columns of one name are an error; otherwise the last one counts.

    Yields:
        The records; a BadRecord for a row with another number of fields.

    Raises:
        DataError: Quotes do not match, or two columns have one name.
    """
    rows = _quoted(path, text, delimiter) if quoting else _plain(text, delimiter)
    names = list(columns)
    for number, row in rows:
        if not names:
            names = row
            if unique:
                _check_unique(names, f"{path}:{number}")
            continue
        if len(row) != len(names):
            yield BadRecord(_wrong_width(path, number, row, names, delimiter, quoting))
            continue
        yield Record(
            f"{path}:{number}", {name: field for name, field in zip(names, row, strict=True) if name}
        )


def _check_unique(names: Sequence[str], where: str) -> None:
    """Raise DataError where two columns have one name; those without a name are skipped."""
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise DataError(
            f"{where} names {names.count(twice[0])} columns {twice[0]!r}; rename them, or for a file without its "
            "header name the columns by data.records.columns"
        )


def read_parquet(path: str, unique: bool = True) -> Iterator[Record]:
    """Yield the rows of a parquet file as records; `where` has the row number, from 1.

    Raises DataError for two columns of one name, where `unique`.
    """
    number = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        if unique:
            _check_unique(file.schema_arrow.names, path)
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Record(f"{path}:{number}", values)


def _plain(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Pairs (line number, fields) of a table whose quotes are text."""
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if line:
            yield number, line.split(delimiter)


def _quoted(path: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Pairs (line number where the row begins, fields); a quoted field may span several lines."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begin = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{begin}: {error}; {_UNQUOTED}") from error
        if row:
            yield begin, row
        begin = reader.line_num + 1


_UNQUOTED = "if quotes in this file are part of the text, set data.records.quoting = False"


def _wrong_width(
    path: str, number: int, row: list[str], names: list[str], delimiter: str, quoting: bool
) -> str:
    name = {",": "comma", "\t": "tab"}[delimiter]
    hint = f"; {_UNQUOTED}" if quoting and any('"' in field for field in row) else ""
    shown = ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])} ..."
    return (
        f"{path}:{number} has {len(row)} field{'s' * (len(row) != 1)} separated by a {name}, "
        f"expected {len(names)}: {shown}{hint}"
    )
