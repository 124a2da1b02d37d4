"""Labels of records as numbers, and their names."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record, valid_text

_NO_LABEL = ("", "nan", "NaN")
_UNLABELLED = "-1"  # of GLUE's test sets and of others
_WHOLE_NUMBER = re.compile(r"(-?\d+)\.0*")


def names_of(records: Sequence[Record], column: str, separator: str | None = None) -> tuple[str, ...]:
    """Return all labels that occur. Whole numbers are one label however they are written ("1" and "1.0").

    Args:
        records: The training records.
        column: Column with the label.
        separator: What separates labels; None where a record has one.

    Returns:
        The labels, sorted (numbers by value).

    Raises:
        ConfigError: There are fewer than two, or -1 may be a class or mark records without a label.
    """
    spellings: dict[str, set[str]] = {}
    for record in records:
        for name in label_set(record, column, separator):
            spellings.setdefault(_number_text(name), set()).add(name)
    names = {number if len(names) > 1 else min(names) for number, names in spellings.items()}
    if len(names) < 2:
        raise ConfigError(
            f"objective.label = {column!r} has one value only in all {len(records)} training records: "
            f"{', '.join(names)!r}; there is nothing to tell apart"
        )
    ordered = tuple(sorted(names, key=_order))
    others = [name for name in ordered if name != _UNLABELLED]
    if len(others) < len(ordered) and len(others) > 1 and all(name.isdecimal() for name in others):
        raise ConfigError(
            f"objective.label = {column!r}: -1 may be a class or mark records without a label; name the classes by "
            f"objective.labels = {ordered} or {tuple(others)} (data.on_bad_record = 'skip' then leaves out -1)"
        )
    return ordered


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
        return [valid_text(record, str(value).strip())]
    values = value if isinstance(value, list) else str(value).split(separator)
    return [name for name in (valid_text(record, str(item).strip()) for item in values) if name]


def check_label(record: Record, column: str, names: Sequence[str], separator: str | None = None) -> None:
    """Raise DataError where a record has no label, or none of the labels.

    An empty label, null and NaN are no label, unless `names` has them; an empty text or list is an empty set.

    Args:
        record: The record.
        column: Column with the label.
        names: All labels; empty where they are still to be taken from the records.
        separator: What separates labels; None where a record has one.
    """
    value = record.get(column, "objective.label")
    if separator is None:
        missing = value is None or str(value).strip() in _NO_LABEL
        if missing and str(value).strip() not in names:
            raise DataError(f"{record.where} has no label: {column!r} is {value!r}{_SKIP}")
    elif value is None or isinstance(value, float) or value in _NO_LABEL[1:]:
        raise DataError(f"{record.where} has no labels: {column!r} is {value!r}{_SKIP}")
    for name in label_set(record, column, separator):
        if names:
            _index(record, column, name, names)


_SKIP = "; data.on_bad_record = 'skip' leaves such records out"


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


def number_of(record: Record, column: str, field: str = "objective.label") -> float:
    """Return a record's number.

    Args:
        record: The record.
        column: Column with the number.
        field: The config's field that names the column, for messages.

    Returns:
        The number.

    Raises:
        DataError: The record has no such column, or it holds no finite number.
    """
    value = record.get(column, field)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{record.where}: {column!r} = {value!r} is no finite number")
    return number


def index_of_name(name: str, names: Sequence[str]) -> int | None:
    """Return the index of a label; None where it is none of `names`.

    A whole number is found however it is written, and is an index where no name is a number: Hugging Face's
    data sets have such labels.
    """
    if name in names:
        return names.index(name)
    number = _number_text(name)
    same = [index for index, other in enumerate(names) if _number_text(other) == number]
    if len(same) == 1:
        return same[0]
    if number.isdecimal() and int(number) < len(names) and not any(_is_number(other) for other in names):
        return int(number)
    return None


def _index(record: Record, column: str, name: str, names: Sequence[str]) -> int:
    index = index_of_name(name, names)
    if index is None:
        hint = ""
        if _number_text(name) == _UNLABELLED:
            hint = f" (-1 marks records without a label{_SKIP})"
        raise DataError(f"{record.where}: " + one_of(column, name, names[:20]) + hint)
    return index


def _number_text(name: str) -> str:
    """A label that is a whole number without its decimals ("1.0" as "1"); any other as it is."""
    match = _WHOLE_NUMBER.fullmatch(name)
    return match[1] if match else name


def _is_number(name: str) -> bool:
    return _order(name)[0] == 0


def _order(name: str) -> tuple[int, float, Any]:
    try:
        number = float(name)
    except ValueError:
        return 1, 0.0, name
    # NaN is not in any order.
    return (1, 0.0, name) if math.isnan(number) else (0, number, name)
