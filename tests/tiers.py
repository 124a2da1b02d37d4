"""Tiers of a parametrised test: some values are quick tests, some are slow ones of CI, the others are run by hand."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def tiers(values: Iterable[Any], *, quick: Collection[Any] = (), slow: Collection[Any] | None = None) -> list:
    """Return the values with their marks, for pytest.mark.parametrize.

    Args:
        values: all values; a tuple is several arguments.
        quick: those that every `pytest` runs.
        slow: those that CI runs in its slow tier; None: all that are not quick. The others are `long`.
    """
    marked = []
    for value in values:
        if value in quick:
            marks = ()
        elif slow is None or value in slow:
            marks = (pytest.mark.slow,)
        else:
            marks = (pytest.mark.long,)
        arguments = value if isinstance(value, tuple) else (value,)
        marked.append(pytest.param(*arguments, marks=marks))
    return marked
