"""Measurements that fail by themselves: the figures of the others are worth having."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tlx.base.errors import first_line

ERROR = "error"


def attempt_each(names: Iterable[str], measure: Callable[[str], Any]) -> dict[str, Any]:
    """Measure each name; one that fails is a printed line and the figure {"error": why}.

    Args:
        names: What is measured.
        measure: Function that measures one of them, prints what it finds and returns its figures.

    Returns:
        Name -> figures.
    """
    figures = {}
    for name in names:
        try:
            figures[name] = measure(name)
        # Whatever it is: minutes of other measurements would be lost with it.
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            print(f"  {name:16} failed: {reason}", flush=True)
            figures[name] = {ERROR: reason}
    return figures


def has_failed(figures: Any) -> bool:
    """Return whether anything in a tree of figures is an error."""
    if not isinstance(figures, Mapping):
        return False
    return ERROR in figures or any(has_failed(inner) for inner in figures.values())
