"""Records of jsonl and json files."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tlx.base.errors import DataError, one_of
from tlx.data.readers.record import Record


def read_jsonl(path: str, text: str, columns: Sequence[str]) -> Iterator[Record]:
    """One JSON object (or, with `columns`, list) a line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield _record(where, _parsed(where, line), columns)


def read_json(path: str, text: str, key: str, columns: Sequence[str]) -> Iterator[Record]:
    """A list of objects (or, with `columns`, of lists), which may stand under a key of an object."""
    values = _parsed(path, text)
    if isinstance(values, dict):
        if key not in values:
            raise DataError(
                f"{path} is an object: name the records' key as FILE::key; " + one_of("key", key, values)
            )
        values = values[key]
    if not isinstance(values, list):
        place = f"{path} under {key!r}" if key else path
        raise DataError(f"{place} is {type(values).__name__}, expected a list of records")
    inside = f"{path}::{key}" if key else path
    for index, value in enumerate(values):
        yield _record(f"{inside}[{index}]", value, columns)


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = "" if "\n" not in text.strip() else f" in line {error.lineno}"
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
