"""Numbers as people and programs write them in tables: 19,596,245 or 1.30B or 3,7096 (a decimal comma) or NaN."""

import math
import re
from collections.abc import Iterable

from tlx.base.errors import DataError

# Words that spreadsheets, trackers and people write where there is no number.
_MISSING = frozenset(
    "- -- — ? na n/a #n/a nan none null nil missing #div/0! #value! #ref! #num! #name? "
    "diverged failed crashed killed oom running pending".split()
)

_THOUSANDS = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_WORDS = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "mn": 1e6, "bn": 1e9, "tn": 1e12}
_METRIC = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_PLAIN = ("params", "parameters", "tokens", "nats", "bits", "nats per token", "bits per byte", "nats/token")

# Units of a column's name or of a cell, in lower case, with the factor to parameters, tokens or FLOPs.
UNITS: dict[str, float] = {
    **_THOUSANDS,
    **_WORDS,
    **{f"{word}s": factor for word, factor in _WORDS.items() if len(word) > 2},
    **{f"{prefix}flop": factor for prefix, factor in _METRIC.items()},
    **{f"{prefix}flops": factor for prefix, factor in _METRIC.items()},
    **{f"{word} {noun}": factor for word, factor in _THOUSANDS.items() for noun in ("params", "tokens")},
    **dict.fromkeys(_PLAIN, 1.0),
    "flop": 1.0,
    "flops": 1.0,
    "pf-days": 8.64e19,
    "petaflop-days": 8.64e19,
}

# A sign, digits with marks and groups, an exponent, and a unit.
_FORM = re.compile(
    r"([+-]?)([\d.,][\d.,'’ \u00a0\u2009\u202f_]*?)(e[+-]?\d+)?\s*([a-z][a-z/ -]*)?", re.IGNORECASE
)
_SPACED = re.compile(r"\d{1,3}(?:(?:['’ \u00a0\u2009\u202f_])\d{3})+(?=[.,]|$)")

# Integers whose groups of three are separated by the mark that is not the decimal one.
_GROUPED = {
    ".": re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?"),
    ",": re.compile(r"[1-9]\d{0,2}(\.\d{3})+(,\d*)?"),
}
_SIMPLE = {".": re.compile(r"\d+(\.\d*)?|\.\d+"), ",": re.compile(r"\d+(,\d*)?|,\d+")}
_ONE_COMMA_GROUP = re.compile(r"[1-9]\d{0,2},\d{3}")
_ONE_POINT_GROUP = re.compile(r"[1-9]\d{0,2}\.\d{3}")


def decimal_mark(cells: Iterable[object]) -> str:
    """Return the decimal mark of a table, "." or ",", from all its cells that should hold numbers.

    Raises DataError where the cells contradict each other, or where "1,234" can be read in two ways.
    """
    points: list[str] = []
    commas: list[str] = []
    unclear: list[str] = []
    for cell in cells:
        if not isinstance(cell, str):
            continue
        match = _FORM.fullmatch(cell.strip())
        if match is None:
            continue
        digits = _without_spaces(match[2])
        if _ONE_COMMA_GROUP.fullmatch(digits) and not match[3]:
            unclear.append(cell)
        elif _GROUPED["."].fullmatch(digits) and "," in digits and not match[3]:
            points.append(cell)
        elif digits.count(".") > 1 or "," in digits:
            commas.append(cell)
        elif "." in digits and not _ONE_POINT_GROUP.fullmatch(digits):
            points.append(cell)
    if points and commas:
        raise DataError(
            f"{commas[0]!r} has a decimal comma and {points[0]!r} a decimal point: write every number the same way"
        )
    if unclear and not points and not commas:
        raise DataError(
            f"{unclear[0]!r} may be a thousand or a decimal comma, and no other number of the table says which: "
            "write it without the comma, or with a point"
        )
    return "," if commas else "."


def number(cell: object, mark: str = ".", units: bool = False) -> float | None:
    """Read one cell.

    Args:
        cell: A number, None, or text.
        mark: Decimal mark, "." or ",".
        units: Whether "1.30B" is 1.3e9 and words such as "n/a" and "diverged" are missing values, as in columns
            that are known to hold numbers.

    Returns:
        The number; NaN for a missing value; None where the cell holds no number.
    """
    if cell is None:
        return math.nan
    if not isinstance(cell, str):
        return _plain(cell, units)
    text = cell.strip().replace("\u2212", "-")
    if not text or (units and text.lower() in _MISSING):
        return math.nan
    match = _FORM.fullmatch(text)
    if match is None:
        return _plain(text, units)  # nan, inf and their relatives
    sign, written, exponent, unit = match.groups()
    digits = _without_spaces(written)
    # A single group after a point ("1.234") is no number where commas are decimal: it may be 1234 or 1.234.
    unclear = mark == "," and _ONE_POINT_GROUP.fullmatch(digits)
    grouped = _GROUPED[mark].fullmatch(digits) and not exponent and not unclear
    if not grouped and not _SIMPLE[mark].fullmatch(digits):
        return None
    factor = 1.0
    if unit is not None:
        factor = UNITS.get(unit.strip().lower(), 0.0) if units else 0.0
        if not factor:
            return None
    group = "," if mark == "." else "."
    return float(sign + digits.replace(group, "").replace(mark, ".") + (exponent or "")) * factor


def _without_spaces(digits: str) -> str:
    """Digits without spaces and apostrophes between groups of three; as they are where the groups are others."""
    groups = _SPACED.match(digits)
    if groups is None:
        return digits
    return re.sub(r"[^\d]", "", groups[0]) + digits[groups.end() :]


def _plain(value: object, strict: bool) -> float | None:
    """A number that Python can read; None for anything else, and for True and False where `strict`."""
    if strict and type(value).__name__ in ("bool", "bool_"):
        return None
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
    except OverflowError:  # an integer beyond every float
        return math.inf
