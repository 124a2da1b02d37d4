"""Readers of .jsonl and .json files."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tlx.base.errors import DataError, one_of
from tlx.data.readers.record import Record


def read_jsonl(path: str, text: str, columns: Sequence[str]) -> Iterator[Record]:
    """Yield one record per line, each a JSON object.

    Args:
        path: Path of the file, for messages.
        text: Content of the file.
        columns: Names of the items where lines are JSON lists; "" for one to skip.

    Yields:
        The records.

    Raises:
        DataError: A line is not JSON, or not an object (or a list of that length).
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield _record(where, _parsed(where, line), columns)


def read_json(path: str, text: str, key: str, columns: Sequence[str]) -> Iterator[Record]:
    """Yield the records of one JSON list of objects.

    Args:
        path: Path of the file, for messages.
        text: Content of the file.
        key: Key of the list, where the file is an object; else "".
        columns: Names of the items where records are JSON lists; "" for one to skip.

    Yields:
        The records.

    Raises:
        DataError: The file is not JSON, has no such list, or an item is not an object.
    """
    values = _parsed(path, text)
    if isinstance(values, dict):
        if key not in values:
            raise DataError(
                f"{path} is an object: name the records' key as FILE::key; " + one_of("key", key, values)
            )
        values = values[key]
    if not isinstance(values, list):
        location = f"{path} under {key!r}" if key else path
        raise DataError(f"{location} is {type(values).__name__}, expected a list of records")
    prefix = f"{path}::{key}" if key else path
    for index, value in enumerate(values):
        yield _record(f"{prefix}[{index}]", value, columns)


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f" in line {error.lineno}" if "\n" in text.strip() else ""
        raise DataError(f"{where} is not JSON{line}: {error}") from error


def _record(where: str, value: Any, columns: Sequence[str]) -> Record:
    if isinstance(value, list) and columns:
        if len(value) != len(columns):
            raise DataError(
                f"{where} has {len(value)} items, expected {len(columns)}: {', '.join(columns)} "
                "(data.records.columns)"
            )
        return Record(where, {name: item for name, item in zip(columns, value, strict=True) if name})
    if not isinstance(value, dict):
        hint = "; data.records.columns names the items of lists" if isinstance(value, list) else ""
        raise DataError(f"{where} is {type(value).__name__}, expected an object with columns{hint}")
    return Record(where, value)
