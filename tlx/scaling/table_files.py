"""Files that hold tables of runs: .csv, .tsv and .txt with any usual delimiter, .json, .jsonl, a ladder's folder."""

import csv
import io
import json
import os
import re
from typing import Any

from tlx.base import json_lines
from tlx.base import place as places
from tlx.base.errors import DataError
from tlx.base.place import BucketPath
from tlx.scaling.ledger import LEDGER, is_line

_DELIMITERS = ",;\t|"
_TEXT = (".csv", ".tsv", ".txt")
_JSON_LINES = (".jsonl", ".ndjson")


def read_table(path: str | os.PathLike | BucketPath) -> Any:
    """Read a file as rows {name: text or value}, or as the columns that a .json file may hold.

    Raises DataError where there is no such file, or where it is not a table.
    """
    path = places.as_named(path)
    if path.is_dir():
        path = path / LEDGER
        if path.is_file():
            return json_lines.read(path, is_line)
    if not path.is_file():
        raise DataError(f"no table of runs at {path}")
    suffix = path.suffix.lower()
    if suffix not in (*_TEXT, *_JSON_LINES, ".json"):
        raise DataError(
            f"{path}: a table of runs is a .csv, .tsv, .jsonl or .json file, or a ladder's folder"
        )
    try:
        text = _decode(path.read_bytes())
        if suffix in _TEXT:
            return parse_rows(text)
        if suffix == ".json":
            return _parse_json(text, "")
        # Only newlines end a line of .jsonl: splitlines() would cut a string at U+2028.
        lines = enumerate(text.split("\n"), 1)
        return [_parse_json(line, f"line {i}: ") for i, line in lines if line.strip()]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def parse_rows(text: str) -> list[dict[str, str]]:
    """Split delimited text to rows, by the delimiter that stands in its first line.

    Raises DataError for a table without names, with a name twice, or with a row of another length.
    """
    if "\0" in text:
        raise DataError("not a table: the file holds zero bytes")
    lines = text.lstrip("\r\n")
    delimiter = None
    declared = re.match(r"sep=([,;\t|])\r?\n", lines)  # Excel's own mark of the delimiter
    if declared:
        delimiter = declared[1]
        lines = lines[declared.end() :]
    first = re.sub(r'"[^"]*"', "", lines.partition("\n")[0])
    if delimiter is None:
        delimiter = max(_DELIMITERS, key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DataError(f"not a table: {error}") from error
    rows = [[cell.strip() for cell in row] for row in rows]
    rows = [_without_empty_end(row) for row in rows if any(row)]
    if not rows:
        raise DataError("the table of runs is empty")
    names = rows[0]
    _check_names(names)
    for i, row in enumerate(rows[1:], 1):
        # Empty cells at the end were cut off, so only a longer row, or one that is much too short, is wrong.
        if len(row) > len(names):
            raise DataError(
                f"row {i} has {len(row)} cells and the table {len(names)} names: "
                f"a number with {delimiter!r} in it needs quotes"
            )
    return [dict(zip(names, [*row, *[""] * (len(names) - len(row))], strict=True)) for row in rows[1:]]


def _check_names(names: list[str]) -> None:
    """Raise DataError for a first line that does not name the columns."""
    if all(re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?", name, re.IGNORECASE) for name in names):
        raise DataError(f"the first line must name the columns (N, D, loss ...); it holds {', '.join(names)}")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(f"{len(twice)} columns have a name that stands twice: {', '.join(map(repr, twice))}")


def _without_empty_end(row: list[str]) -> list[str]:
    while not row[-1]:
        row = row[:-1]
    return row


def _decode(data: bytes) -> str:
    """Text of UTF-8, or of UTF-16 with its mark (as spreadsheets write it), without the mark."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"not a table: byte {error.start} is not {encoding.removesuffix('-sig')} text"
        ) from error


def _parse_json(text: str, position: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{position}not JSON: {error}") from error
