"""Contiguous stretches of a long text, held out for validation."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tlx.data.sources.source import name_hash

# Characters of a stretch at most: long enough for windows of any usual length, short enough that a book's
# validation text comes from many parts of it.
_LONGEST = 1 << 16
_SPACE = re.compile(r"\s")


class Stretch(NamedTuple):
    """A part of a text that belongs to one split."""

    start: int
    """First character."""
    stop: int
    """The character after the last."""
    held_out: bool
    """Whether it belongs to the validation split."""


def split_stretches(text: str, name: str, fraction: float) -> list[Stretch]:
    """Cut a text into stretches of training and validation that follow one another without a gap.

    The text is divided into equal periods, and in each one stretch of the given fraction is held out, at an
    offset that a hash of the name and of the period's number selects. Ends are moved to the end of a line,
    or else of a word, where one is near. The first and the last character that are not blank bound it.

    Args:
        text: The text.
        name: Name that selects the offsets.
        fraction: Fraction of the characters that is held out, between 0 and 1.

    Returns:
        Stretches in order, whose concatenation is the text. One alone, which is not held out, where the text
        is too short to be divided.
    """
    begin = len(text) - len(text.lstrip())
    end = len(text.rstrip())
    cuts = []
    last = begin
    for start, stop in _intervals(end - begin, name, fraction):
        start = max(_boundary(text, begin + start, stop - start, end), last)
        stop = max(_boundary(text, begin + stop, stop - start, end), start + 1)
        while stop < end and not text[start:stop].strip():
            stop += 1
        if start < end:
            cuts.append((start, stop))
            last = stop
    stretches = []
    last = 0
    for start, stop in cuts:
        stretches += [Stretch(last, start, False), Stretch(start, stop, True)]
        last = stop
    stretches = [part for part in [*stretches, Stretch(last, len(text), False)] if part.start < part.stop]
    if not any(text[part.start : part.stop].strip() for part in stretches if not part.held_out):
        return [Stretch(0, len(text), False)]
    return stretches


def _intervals(size: int, name: str, fraction: float) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the stretches to hold out of `size` characters."""
    if size < 2:
        return
    count = max(1, round(size * fraction / _LONGEST))
    period = size / count
    length = fraction * period
    for number in range(count):
        offset = name_hash(f"{name}:{number}") / 16**12 * (period - length)
        start = int(number * period + offset)
        yield start, max(int(start + length), start + 1)


def _boundary(text: str, at: int, length: int, end: int) -> int:
    """Return the end of the line, or else of the word, nearest after `at`; `at` where none is near."""
    if at <= 0:
        return at
    limit = min(at + max(length // 2, 1), end)
    newline = text.find("\n", at - 1, limit)
    if newline >= 0:
        return newline + 1
    space = _SPACE.search(text, at - 1, limit)
    return at if space is None else space.end()
