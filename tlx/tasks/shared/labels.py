"""Labels of records as numbers, and their names."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record


def names_of(records: Sequence[Record], column: str, separator: str | None = None) -> tuple[str, ...]:
    """Return all labels that occur.

    Args:
        records: The training records.
        column: Column with the label.
        separator: What separates labels; None where a record has one.

    Returns:
        The labels, sorted (numbers by value).

    Raises:
        ConfigError: There are fewer than two.
    """
    names = {name for record in records for name in label_set(record, column, separator)}
    if len(names) < 2:
        raise ConfigError(
            f"objective.label = {column!r} has one value only in all {len(records)} training records: "
            f"{', '.join(names)!r}; there is nothing to tell apart"
        )
    return tuple(sorted(names, key=_order))


def label_set(record: Record, column: str, separator: str | None) -> list[str]:
    """Return the labels of a record.

    Args:
        record: The record.
        column: Column with the label: one, a list, or a text of several.
        separator: What separates labels in a text; None where a record has one label.

    Returns:
        The labels, without white space around them.

    Raises:
        DataError: The column has several values where one is expected.
    """
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
    """Return the index of a record's label.

    Args:
        record: The record.
        column: Column with the label.
        names: All labels.

    Returns:
        Index into `names`.

    Raises:
        DataError: The label is none of `names`.
    """
    (name,) = label_set(record, column, None)
    return _index(record, column, name, names)


def classes_of(record: Record, column: str, separator: str, names: Sequence[str]) -> np.ndarray:
    """Return a record's set of labels as an indicator vector.

    Args:
        record: The record.
        column: Column with the labels.
        separator: What separates labels in a text.
        names: All labels.

    Returns:
        float32 [C], 1 for each of the record's labels.

    Raises:
        DataError: A label is none of `names`.
    """
    indicator = np.zeros(len(names), np.float32)
    for name in label_set(record, column, separator):
        indicator[_index(record, column, name, names)] = 1.0
    return indicator


def number_of(record: Record, column: str) -> float:
    """Return a record's label that is a number; raises DataError where it is none."""
    value = record.get(column, "objective.label")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{record.where}: {column!r} = {value!r} is no finite number")
    return number


def _index(record: Record, column: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise DataError(f"{record.where}: " + one_of(column, name, names[:20]))
    return names.index(name)


def _order(name: str) -> tuple[int, float, Any]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
