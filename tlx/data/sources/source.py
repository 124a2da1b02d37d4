"""What a source of documents is."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Split = Literal["train", "validation"]


class Document(NamedTuple):
    """A text and how to call it in a message: its file, and its line or record where there are several.

    `replies` are the turns of a conversation that follow the first one; `ratings` what its last turn was
    rated, 0, 1 or None for each attribute.
    """

    name: str
    text: str
    replies: tuple[str, ...] = ()
    ratings: tuple[int | None, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or all turns."""
        return (self.text, *self.replies)


class Source(Protocol):
    """Documents of one split, in an order that never changes.

    `identity` is a JSON value that changes whenever the documents may have changed: a token cache is kept
    under its hash. `parts` are files (or ranges of records) in order; `num_bytes` of text, None if unknown
    without reading. `parallel`: documents come in pairs, a text and its translation (or answer).
    """

    name: str
    identity: Any
    parts: Sequence[str]
    num_bytes: int | None
    parallel: bool

    def read(self, part: str) -> Iterator[Document]:
        """Documents of one part, none of them blank. DataError naming what cannot be read."""
        ...


def held_out(name: str, fraction: float) -> bool:
    """Whether the document called `name` belongs to the validation split: a hash, so it stays there."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) < fraction * 16**12
