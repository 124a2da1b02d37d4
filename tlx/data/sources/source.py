"""The interface of sources of documents."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from tlx.data.bad_records import BadRecord

Split = Literal["train", "validation"]


class Document(NamedTuple):
    """A text or a conversation, with a name for messages."""

    name: str
    """File, and line or record where a file has several documents."""
    text: str
    """The text, or the first turn of a conversation."""
    replies: tuple[str, ...] = ()
    """Further turns of a conversation; empty for a text."""
    ratings: tuple[int | None, ...] = ()
    """Rating of the last turn for each attribute: 0, 1, or None for not rated."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All turns; for a text, the text alone."""
        return (self.text, *self.replies)


class Source(Protocol):
    """Documents of one split, in a fixed order."""

    name: str
    """Name for messages."""
    identity: Any
    """JSON value that changes whenever the documents may have changed; its hash keys the token cache."""
    parts: Sequence[str]
    """Files (or ranges of records), in order."""
    num_bytes: int | None
    """UTF-8 bytes of text; None where it is unknown without reading."""
    parallel: bool
    """Whether documents come in pairs: a text, then its translation or answer."""

    # A source may also have `remedy`, the end of the message where a split has no documents; `part_sizes`, the bytes
    # of each part on disk; and, where `shares_parts` is true, `read_splits(part)`: both splits have the same parts,
    # and one pass yields pairs (split, document or bad record).

    def read(self, part: str) -> Iterator[Document | BadRecord]:
        """Yield the documents of one part, none of them blank, and what stands for those that are not usable.

        Raises DataError where the part cannot be read.
        """
        ...


def held_out(name: str, fraction: float) -> bool:
    """Return whether a document belongs to the validation split, by a hash of its name."""
    # By a hash of each name alone: added files change no other file's side.
    return name_hash(name) < fraction * 16**12


def name_hash(name: str) -> int:
    """Return a hash of a document's name, from 0 to 16**12 - 1."""
    return int(hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12], 16)
