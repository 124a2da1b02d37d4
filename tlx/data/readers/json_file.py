"""Readers of .jsonl and .json files."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tlx.base.errors import DataError, one_of
from tlx.data.bad_records import BadRecord
from tlx.data.readers.record import Record


def read_jsonl(
    path: str, text: str, columns: Sequence[str], unique: bool = True
) -> Iterator[Record | BadRecord]:
    """Yield one record per line, each a JSON object.

    Args:
        path: Path of the file, for messages.
        text: Content of the file.
        columns: Names of the items where lines are JSON lists; "" for one to skip.
        unique: Whether an object with two values of one key is a bad record; otherwise the last one counts.

    Yields:
        The records; a BadRecord for a line that is not JSON, or not an object (or a list of that length).
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield _record(where, _parsed(where, line, unique), columns)
            except DataError as error:
                yield BadRecord(str(error))


def read_json(
    path: str, text: str, key: str, columns: Sequence[str], unique: bool = True
) -> Iterator[Record | BadRecord]:
    """Yield the records of one JSON list of objects.

    Args:
        path: Path of the file, for messages.
        text: Content of the file.
        key: Key of the list, where the file is an object; else "".
        columns: Names of the items where records are JSON lists; "" for one to skip.
        unique: Whether two values of one key are an error; otherwise the last one counts.

    Yields:
        The records; a BadRecord for an item that is not an object.

    Raises:
        DataError: The file is not JSON, or has no such list.
    """
    values = _parsed(path, text, unique)
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
        try:
            yield _record(f"{prefix}[{index}]", value, columns)
        except DataError as error:
            yield BadRecord(str(error))


def _parsed(where: str, text: str, unique: bool) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys if unique else None)
    except json.JSONDecodeError as error:
        line = f" in line {error.lineno}" if "\n" in text.strip() else ""
        raise DataError(f"{where} is not JSON{line}: {error}") from error
    except DataError as error:
        raise DataError(f"{where} {error}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise DataError(f"{where} cannot be read as JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Dict of the pairs of a JSON object. Raises DataError where a key occurs twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"has two values of the key {twice!r}")
    return values


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
