"""Filters of records while a corpus is prepared: by length, by the user's own function, and exact duplicates."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from tlx.base.errors import ConfigError, DataError
from tlx.base.lookup import Table
from tlx.data.sources.source import Document

# No filters come with tlx: names are "package.module:attr".
TABLE = Table("data.filter.function", {})

DUPLICATE = "duplicate"
DIGEST_BYTES = 16  # collisions of 1e10 records have a probability of 1e-19


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Records that `tlx data prepare` leaves out; they are counted by reason. Training needs a prepared corpus then.

    A record is a text, a pair of texts or a conversation.
    """

    min_characters: int = 0
    """Records whose texts have fewer characters together are left out; 0: none is too short."""
    max_characters: int = 0
    """Records whose texts have more characters together are left out; 0: none is too long."""
    duplicates: Literal["keep", "drop"] = "keep"
    """"drop" keeps one of the records with exactly the same texts, over all sources and both splits: the first of the
    validation split, or else the first of the training split."""
    function: Annotated[str, TABLE] = ""
    """Filter of one's own, "package.module:attr": a pure function of the tuple of a record's texts. It returns "" for
    a record to keep, or a short reason to leave it out; empty: none."""

    @property
    def is_active(self) -> bool:
        """Whether any record may be left out."""
        return self != FilterConfig()

    def validate(self) -> None:
        """Check all fields. Raises ConfigError naming the field, its value and the legal values."""
        for name in ("min_characters", "max_characters"):
            if getattr(self, name) < 0:
                raise ConfigError(f"data.filter.{name} = {getattr(self, name)} must be 0 (no limit) or more")
        if 0 < self.max_characters < self.min_characters:
            raise ConfigError(
                f"data.filter.max_characters = {self.max_characters} is less than min_characters = "
                f"{self.min_characters}: no record would be left"
            )
        if self.function and ":" not in self.function:
            raise ConfigError(
                f'data.filter.function = {self.function!r} must have the form "package.module:attr"'
            )


class RecordFilter:
    """A filter of single records that counts what it leaves out by reason."""

    def __init__(self, config: FilterConfig):
        """Load the user's function. Raises ConfigError where it cannot be imported."""
        self.counts: collections.Counter[str] = collections.Counter()
        self._config = config
        # The name was checked where the config was read (Table.check); workers get it from there.
        self._function: Callable[[tuple[str, ...]], str] | None = None
        if config.function:
            self._function = TABLE.load(config.function, allow=None)

    def keeps(self, record: Sequence[Document]) -> bool:
        """Return whether a record is kept, and count it by the reason where it is not."""
        reason = self._reason(texts_of(record))
        if reason:
            self.counts[reason] += 1
        return not reason

    def _reason(self, texts: tuple[str, ...]) -> str:
        size = sum(map(len, texts))
        if size < self._config.min_characters:
            return "min_characters"
        if self._config.max_characters and size > self._config.max_characters:
            return "max_characters"
        if self._function is None:
            return ""
        reason = self._function(texts)
        if not isinstance(reason, str):
            raise DataError(
                f'data.filter.function = {self._config.function!r} returned {reason!r}; it must return "" for a '
                "record to keep, or the reason to leave it out, a text"
            )
        return f"function: {reason}" if reason else ""


def texts_of(record: Sequence[Document]) -> tuple[str, ...]:
    """Return the texts of a record: of one document with its turns, or of both documents of a pair."""
    return tuple(text for document in record for text in document.texts)


def digest(texts: Sequence[str]) -> bytes:
    """Return a hash of 16 bytes that is equal for equal texts."""
    hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for text in texts:
        # With its size first: ("ab", "c") and ("a", "bc") differ.
        data = text.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.digest()
