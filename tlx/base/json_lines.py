"""Files of JSON objects, one a line, that survive kills and full disks: broken lines are skipped and counted."""

import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tlx.base import line_segments
from tlx.base.place import BucketPath

log = logging.getLogger("tlx")

# Number of broken lines that was last reported, by path: pollers read the same file again and again.
_reported: dict[str, int] = {}


class JsonLines(NamedTuple):
    """Contents of a file of JSON lines."""

    objects: list[dict[str, Any]]
    """The objects of its sound lines, in order."""
    broken: list[int]
    """Numbers of the lines that hold no such object, from 1."""


def parse(data: bytes, is_sound: Callable[[dict[str, Any]], bool]) -> JsonLines:
    """Parse the bytes of a file.

    Half a line at the end is no broken one: it is being written, or its writer was killed.

    Args:
        data: The bytes.
        is_sound: Whether an object has the keys and values that the readers of the file count on.

    Returns:
        The objects of the sound lines, and the numbers of the broken ones.
    """
    objects: list[dict[str, Any]] = []
    broken: list[int] = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        # Half a line, zero bytes, no UTF-8, and brackets that are nested too deeply.
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and is_sound(value):
            objects.append(value)
        elif number < len(lines):
            broken.append(number)
    return JsonLines(objects, broken)


def read(
    path: str | os.PathLike | BucketPath, is_sound: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Return the objects of a file, none where there is no file; broken lines are counted in one warning.

    Args:
        path: The file.
        is_sound: As `parse`'s.

    Returns:
        The objects of its sound lines.
    """
    try:
        data = _bucket_bytes(path) if isinstance(path, BucketPath) else pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        return []
    lines = parse(data, is_sound)
    count = len(lines.broken)
    if count and count != _reported.get(str(path)):
        noun = "line is" if count == 1 else "lines are"
        log.warning("%s: %d %s broken and skipped (the first: line %d)", path, count, noun, lines.broken[0])
    _reported[str(path)] = count
    return lines.objects


def _bucket_bytes(path: BucketPath) -> bytes:
    """Return the bytes of a whole object, or else of a file of segments."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return line_segments.read(path)


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number that fits a float or a 64-bit integer."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


def append(path: str | os.PathLike, value: Mapping[str, Any]) -> None:
    """Append an object as a line; where that fails, the file is left as it was.

    Raises OSError where the file cannot be opened or written.
    """
    line = json.dumps(value).encode() + b"\n"
    # Unbuffered, and closed after each line, so that it is in the file where the process is killed next.
    with open(path, "a+b", buffering=0) as handle:
        end = handle.seek(0, os.SEEK_END)
        if end and os.pread(handle.fileno(), 1, end - 1) != b"\n":
            # Half a line of a writer that was killed: this one must not become a part of it.
            line = b"\n" + line
        try:
            written = 0
            while written < len(line):
                written += handle.write(line[written:])
        except OSError:
            # A full disk takes the first bytes of a line.
            handle.truncate(end)
            raise
