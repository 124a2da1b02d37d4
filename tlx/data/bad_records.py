"""Records and documents that cannot be used: reported as an error, or skipped up to a limit and counted."""

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from tlx.base.errors import DataError

_log = logging.getLogger("tlx")

T = TypeVar("T")

_EXAMPLES = 3  # messages of skipped records that are shown
_SURROGATE = re.compile("[\ud800-\udfff]")
# White space, control and format characters, byte order marks and variation selectors.
_INVISIBLE = re.compile(
    "[\\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]*"
)


class BadRecord(NamedTuple):
    """A record or document that a reader cannot give, in place of it."""

    message: str
    """Message that names it and says why."""
    blank: bool = False
    """Whether it is only an empty text, which is left out whatever the policy is."""


class BadRecordPolicy(NamedTuple):
    """Treatment of records and documents that cannot be used."""

    action: Literal["error", "skip", "keep"] = "error"
    """"error" stops at the first; "skip" leaves them out and says how many; "keep" as in DataConfig."""
    limit: int = 1000
    """Number of skipped records of a split beyond which there is an error."""


DEFAULT_POLICY = BadRecordPolicy()


class SkippedRecords:
    """Count of what is left out of one split, by a policy."""

    def __init__(self, name: str, policy: BadRecordPolicy):
        """Start at 0; `name` is the split's in messages."""
        self.name = name
        self.policy = policy
        self.num_bad = 0
        self.num_blank = 0
        self.examples: list[str] = []

    def add(self, bad: BadRecord) -> None:
        """Count a bad record. Raises DataError unless it is blank, or is skipped and within the limit."""
        if bad.blank:
            self.num_blank += 1
            return
        if self.policy.action != "skip":
            raise DataError(bad.message)
        self.num_bad += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(bad.message)
        self.check_limit()

    def check_limit(self) -> None:
        """Raise DataError where more records were skipped than the policy allows."""
        if self.num_bad > self.policy.limit:
            raise DataError(
                f"{self.name}: more than data.max_bad_records = {self.policy.limit} records cannot be used, "
                f"such as: {self.examples[0]}"
            )

    def filter(self, entries: Iterable[T | BadRecord]) -> Iterator[T]:
        """Yield the entries that are no BadRecord, and count the others."""
        for entry in entries:
            if isinstance(entry, BadRecord):
                self.add(entry)
            else:
                yield entry

    def report(self) -> None:
        """Log how many records were left out, with the first of them; nothing where none was."""
        if self.num_bad:
            shown = "; ".join(self.examples)
            more = "; ..." if self.num_bad > len(self.examples) else ""
            _log.warning("%s: skipped %s bad records: %s%s", self.name, f"{self.num_bad:,}", shown, more)
        if self.num_blank:
            _log.warning("%s: left out %s empty documents", self.name, f"{self.num_blank:,}")

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON; empty where nothing was left out."""
        if not self.num_bad and not self.num_blank:
            return {}
        return {"num_bad": self.num_bad, "num_blank": self.num_blank, "examples": self.examples}

    def read_json(self, counts: dict[str, Any]) -> None:
        """Take over counts of `to_json`. Raises DataError where they are beyond the policy's limit."""
        self.num_bad = counts.get("num_bad", 0)
        self.num_blank = counts.get("num_blank", 0)
        self.examples = counts.get("examples", [])
        self.check_limit()


def surrogate_in(text: str) -> str:
    """Return why a text is not valid Unicode: the message part for half a surrogate pair; empty if it is."""
    if text.isascii():
        return ""
    match = _SURROGATE.search(text)
    if match is None:
        return ""
    return f"holds half a surrogate pair: {match[0]!a} at character {match.start()}"


def is_invisible(text: str) -> bool:
    """Return whether a text has no visible character: white space, zero-width and control characters only."""
    return _INVISIBLE.fullmatch(text) is not None
