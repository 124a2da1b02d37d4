"""Tokens of a split on disk: one flat memory-mapped array and the offsets of its documents."""

import pathlib
from typing import Any

import numpy as np

from tlx.base.errors import DataError
from tlx.base.files import read_json
from tlx.data.token_split import DocumentSpan

FORMAT = 1
META = "meta.json"
TOKENS = "tokens.bin"
OFFSETS = "offsets.bin"
REPLIES = "replies.bin"

# Offsets that are checked at a time: a corpus of 1e8 documents is opened without a copy of them all.
_CHECKED = 1 << 20


def token_dtype(vocab_size: int) -> np.dtype:
    """Return uint16 where every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class TokenCache:
    """Read-only view of a token cache. Pickles as its path, so that data workers map the same pages.

    Attributes:
        folder: Folder of the cache.
        meta: Content of meta.json.
        tokens: uint16 or uint32 [num_tokens], all documents in order.
        offsets: int64 [num_documents + 1]; document d is tokens[offsets[d]:offsets[d + 1]], including eos
            where the cache was written with it. No document is empty.
        replies: int64 [num_replies], positions in `tokens` where the turns of conversations begin, without
            the first turn of each.
    """

    def __init__(self, folder: str | pathlib.Path):
        """Map the files. Raises DataError naming the file that is missing or damaged."""
        self.folder = pathlib.Path(folder)
        self.meta = _read_meta(self.folder)
        dtype = token_dtype(self.meta["vocab_size"])
        self.tokens = _map(self.folder / TOKENS, dtype, self.num_tokens)
        self.offsets = _map(self.folder / OFFSETS, np.dtype(np.int64), self.num_documents + 1)
        self.replies = np.zeros(0, np.int64)
        if count := self.meta.get("num_replies", 0):
            self.replies = _map(self.folder / REPLIES, np.dtype(np.int64), count)
        if self.offsets[0] != 0 or self.offsets[-1] != self.num_tokens or not _rises(self.offsets):
            raise DataError(
                f"{self.folder / OFFSETS} is damaged: its offsets do not rise to {self.num_tokens}"
            )
        # An id outside is clipped silently by a lookup on the device.
        if self.meta["max_token"] >= self.meta["vocab_size"]:
            raise DataError(
                f"{self.folder / TOKENS} holds token {self.meta['max_token']}, outside its vocabulary "
                f"of {self.meta['vocab_size']}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCache, (str(self.folder),)

    @property
    def num_tokens(self) -> int:
        """Number of tokens, including eos."""
        return self.meta["num_tokens"]

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return self.meta["num_documents"]

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text of all documents."""
        return self.meta["num_bytes"]

    @property
    def num_replies(self) -> int:
        """Number of turns of conversations, without the first turn of each."""
        return len(self.replies)

    @property
    def fingerprint(self) -> str:
        """sha256 of tokens and document lengths: equal for equal text and tokenizer."""
        return self.meta["fingerprint"]

    @property
    def is_remote(self) -> bool:
        """Whether reads are requests: they are not."""
        return False

    @property
    def where(self) -> str:
        """The folder, for messages."""
        return f"the token cache {self.folder}"

    def read_tokens(self, start: int, stop: int) -> np.ndarray:
        """Return tokens start..stop - 1, uint16 or uint32."""
        return self.tokens[start:stop]

    def read_offsets(self, first: int, stop: int) -> np.ndarray:
        """Return the first tokens of documents first..stop - 1, int64."""
        return self.offsets[first:stop]

    def read_replies(self, first: int, stop: int) -> np.ndarray:
        """Return the first tokens of turns first..stop - 1, int64."""
        return self.replies[first:stop]

    def find_document(self, token: int) -> DocumentSpan:
        """Return the document that holds a token."""
        index = int(np.searchsorted(self.offsets, token, "right")) - 1
        return DocumentSpan(index, int(self.offsets[index]), int(self.offsets[index + 1]))

    def starts_between(self, start: int, stop: int) -> np.ndarray:
        """Return the first tokens of the documents that begin after `start` and before `stop`, int64."""
        offsets = self.offsets
        return offsets[offsets.searchsorted(start + 1) : offsets.searchsorted(stop)]

    def plan_folder(self, name: str) -> pathlib.Path:
        """Return a folder beside the cache: every run with this text shares what is derived from it."""
        return self.folder.with_name(f"{self.folder.name}-{name}")


def _rises(offsets: np.ndarray) -> bool:
    """Whether every offset is larger than the one before it."""
    for start in range(0, len(offsets) - 1, _CHECKED):
        piece = offsets[start : start + _CHECKED + 1]
        if not (piece[1:] > piece[:-1]).all():
            return False
    return True


def _read_meta(folder: pathlib.Path) -> dict[str, Any]:
    try:
        meta = read_json(folder / META)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the token cache: {error}") from error
    if meta.get("format") != FORMAT:
        raise DataError(f"{folder / META} has format {meta.get('format')!r}; this version reads {FORMAT}")
    if missing := {"vocab_size", "num_documents", "num_tokens", "num_bytes", "max_token"} - set(meta):
        raise DataError(f"{folder / META} is damaged: it lacks {', '.join(sorted(missing))}")
    return meta


def _map(path: pathlib.Path, dtype: np.dtype, count: int) -> np.ndarray:
    """Map a file as a plain array, whose slices are microseconds cheaper than those of np.memmap."""
    try:
        size = path.stat().st_size
        # A file that was cut short would map, and end in a bus error far from here.
        if size != count * dtype.itemsize:
            raise DataError(f"{path} is damaged: {size} bytes instead of {count * dtype.itemsize}")
        return np.asarray(np.memmap(path, dtype, "r"))
    except OSError as error:
        raise DataError(f"cannot read the token cache: {error}") from error
