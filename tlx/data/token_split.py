"""The tokens of a split, read by range: the interface that layouts read, whatever stores them."""

import pathlib
from typing import Any, NamedTuple, Protocol

import numpy as np


class DocumentSpan(NamedTuple):
    """A document and its tokens."""

    index: int
    """Index of the document in the split."""
    start: int
    """Its first token."""
    stop: int
    """The token after its last."""


class TokenSplit(Protocol):
    """All documents of one split of a source, concatenated. No document is empty.

    Nothing that grows with the number of documents is kept in memory: every method reads a range.
    """

    meta: dict[str, Any]
    """`source` (name for messages), `vocab_size`, `parallel` (whether documents come in pairs) and `max_token`."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens, including eos."""
        ...

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        ...

    @property
    def num_replies(self) -> int:
        """Number of turns of conversations, without the first turn of each."""
        ...

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text of all documents."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of tokens and document lengths: equal for equal text and tokenizer."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether a read is a request to a bucket, of which several should be in flight."""
        ...

    @property
    def where(self) -> str:
        """The folder or place, for messages."""
        ...

    def read_tokens(self, start: int, stop: int) -> np.ndarray:
        """Return tokens start..stop - 1, uint16 or uint32."""
        ...

    def read_offsets(self, first: int, stop: int) -> np.ndarray:
        """Return the first tokens of documents first..stop - 1, int64; that of `num_documents` is `num_tokens`."""
        ...

    def read_replies(self, first: int, stop: int) -> np.ndarray:
        """Return the first tokens of turns first..stop - 1, int64."""
        ...

    def find_document(self, token: int) -> DocumentSpan:
        """Return the document that holds a token."""
        ...

    def starts_between(self, start: int, stop: int) -> np.ndarray:
        """Return the first tokens of the documents that begin after `start` and before `stop`, int64."""
        ...

    def plan_folder(self, name: str) -> pathlib.Path:
        """Return the folder in the user's cache for what is derived from the tokens under this name."""
        ...
