"""Labels of records as numbers, and their names."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record


def names_of(records: Sequence[Record], column: str, separator: str | None = None) -> tuple[str, ...]:
    """All labels that occur, sorted (numbers by value). ConfigError where there are fewer than two."""
    found = {name for record in records for name in label_set(record, column, separator)}
    if len(found) < 2:
        raise ConfigError(
            f"objective.label = {column!r} has one value only in all {len(records)} training records: "
            f"{', '.join(found)!r}; there is nothing to tell apart"
        )
    return tuple(sorted(found, key=_order))


def label_set(record: Record, column: str, separator: str | None) -> list[str]:
    """The labels of a record: one, or with a separator those of a list or of a text that it cuts."""
    value = record.get(column, "objective.label")
    if separator is None:
        if isinstance(value, list | dict) or value is None:
            raise DataError(
                f"{record.where}: {column!r} is {type(value).__name__}, expected one label "
                "(objective.multi_label = True for several)"
            )
        return [str(value).strip()]
    values = value if isinstance(value, list) else str(value).split(separator)
    return [name for name in (str(item).strip() for item in values) if name]


def class_of(record: Record, column: str, names: Sequence[str]) -> int:
    """The number of a record's label; DataError naming the record where it is none of `names`."""
    (name,) = label_set(record, column, None)
    return _number(record, column, name, names)


def classes_of(record: Record, column: str, separator: str, names: Sequence[str]) -> np.ndarray:
    """float32 [C]: 1 for each of a record's labels."""
    chosen = np.zeros(len(names), np.float32)
    for name in label_set(record, column, separator):
        chosen[_number(record, column, name, names)] = 1.0
    return chosen


def number_of(record: Record, column: str) -> float:
    """A record's label that is a number; DataError where it is none."""
    value = record.get(column, "objective.label")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{record.where}: {column!r} = {value!r} is no finite number")
    return number


def _number(record: Record, column: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise DataError(f"{record.where}: " + one_of(column, name, names[:20]))
    return names.index(name)


def _order(name: str) -> tuple[int, float, Any]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
