"""Texts made of a record's columns: "translate English to Korean: {en}"."""

import re
from collections.abc import Sequence

from tlx.data.readers import Record

_COLUMN = re.compile(r"\{([^{}]*)\}")


def columns_of(template: str) -> tuple[str, ...]:
    """The columns that a template names, each once."""
    return tuple(dict.fromkeys(_COLUMN.findall(template)))


def filled(template: str, record: Record, field: str) -> str:
    """The template with the record's values in place of {column}; items of a list have spaces between them.

    DataError naming the config's `field` and the columns that there are.
    """
    return _COLUMN.sub(lambda match: record.joined(match[1], field), template)


def texts_of(template: str, record: Record, field: str) -> list[str]:
    """The same, as one text; of a template that is one column with a list, each of its items is a text."""
    (column, *_) = columns_of(template) or ("",)
    if template == "{" + column + "}":
        value = record.get(column, field)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [str(item) for item in value]
    return [filled(template, record, field)]
