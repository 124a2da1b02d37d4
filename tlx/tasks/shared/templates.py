"""Texts made of a record's columns: "translate English to Korean: {en}"."""

import re
from collections.abc import Sequence

from tlx.data.readers import Record

_COLUMN = re.compile(r"\{([^{}]*)\}")


def columns_of(template: str) -> tuple[str, ...]:
    """Return the columns that a template names, each once."""
    return tuple(dict.fromkeys(_COLUMN.findall(template)))


def filled(template: str, record: Record, field: str) -> str:
    """Fill a template with a record's values.

    Args:
        template: Text with {column} for the values; items of a list are joined by spaces.
        record: The record.
        field: The config's field that has the template, for messages.

    Returns:
        The text.

    Raises:
        DataError: A column is missing; the message names the field and the columns that there are.
    """
    return _COLUMN.sub(lambda match: record.joined(match[1], field), template)


def texts_of(template: str, record: Record, field: str) -> list[str]:
    """Fill a template of which a record may have several texts.

    Args:
        template: Text with {column} for the values.
        record: The record.
        field: The config's field that has the template, for messages.

    Returns:
        One text; of a template that is one column with a list, a text for each of its items.
    """
    (column, *_) = columns_of(template) or ("",)
    if template == "{" + column + "}":
        value = record.get(column, field)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [str(item) for item in value]
    return [filled(template, record, field)]
