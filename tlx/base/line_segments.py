"""A growing file of lines in a bucket, where nothing is appended to: numbered segments, each a whole object.

    metrics.jsonl/000001-000000     the first segment of the first writing
    metrics.jsonl/000001-000001     the next one, begun once the one before is full
    metrics.jsonl/000002-000000     all lines that a later start has kept: it replaces the segments of 000001

The last segment is written again as it grows, at most every few seconds; what a kill loses is younger than that.
"""

import logging
import re
import threading
import time

from tlx.base import place as places
from tlx.base.place import BucketPath

# Seconds between writes: stores limit the writes of one object to about one a second.
FLUSH_SECONDS = 2.0
# Bytes from which on a segment is full: each flush writes all of the last one again.
SEGMENT_BYTES = 256 << 10
_NAME = re.compile(r"(\d{6,})-(\d{6,})")

log = logging.getLogger("tlx")


def read(place: BucketPath) -> bytes:
    """Return all bytes of a file of segments; FileNotFoundError where there is none."""
    segments = _segments(place)
    if not segments:
        raise FileNotFoundError(2, "no such object", str(place))
    newest = max(writing for writing, _ in segments)
    return b"".join((place / _name(*key)).read_bytes() for key in sorted(segments) if key[0] == newest)


class SegmentWriter:
    """Appends lines to a file of segments; for one writer at a time, from any of its threads."""

    def __init__(self, place: BucketPath):
        self._place = place
        self._lock = threading.RLock()
        self._key: tuple[int, int] | None = None
        self._content = b""
        self._is_written = True
        self._timer: threading.Timer | None = None
        self._last = 0.0
        self._is_failing = False

    def append(self, line: bytes) -> None:
        """Add a line; it is in the store within a few seconds, or after `flush`."""
        with self._lock:
            self._content += line
            self._is_written = False
            if self._timer is None:
                wait = max(0.0, self._last + FLUSH_SECONDS - time.monotonic())
                self._timer = threading.Timer(wait, self._flush_later)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what is not yet in the store. Raises OSError where that fails; the next call tries again."""
        with self._lock:
            if self._is_written:
                return
            if self._key is None:
                self._create()
            else:
                places.write(self._place / _name(*self._key), self._content)
            self._is_written = True
            self._last = time.monotonic()
            if len(self._content) > SEGMENT_BYTES:
                self._key = None
                self._content = b""

    def rewrite(self, content: bytes) -> None:
        """Replace the whole file."""
        with self._lock:
            old = _segments(self._place)
            self._key = (max((writing for writing, _ in old), default=0) + 1, 0)
            self._content = content
            self._is_written = True
            # Complete at once, and from then on the newest: a kill before the deletions loses nothing.
            places.write(self._place / _name(*self._key), content)
            for key in old:
                (self._place / _name(*key)).unlink(missing_ok=True)

    def _create(self) -> None:
        """Write the content as a segment of its own, after those of all other writers."""
        while True:
            last = max(_segments(self._place), default=(1, -1))
            key = (last[0], last[1] + 1)
            if places.write_if(self._place / _name(*key), self._content, None) is not None:
                self._key = key
                return

    def _flush_later(self) -> None:
        with self._lock:
            self._timer = None
        try:
            self.flush()
        except OSError as error:
            if not self._is_failing:
                log.error("%s cannot be written (%s): tried again with its next lines", self._place, error)
            self._is_failing = True
        else:
            self._is_failing = False


def _segments(place: BucketPath) -> list[tuple[int, int]]:
    names = map(_NAME.fullmatch, place.store.list_names(place.prefix))
    return [(int(match[1]), int(match[2])) for match in names if match]


def _name(writing: int, number: int) -> str:
    return f"{writing:06}-{number:06}"
