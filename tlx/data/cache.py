"""Tokens of a split on disk: one flat memory-mapped array and the offsets of its documents."""

import pathlib
from typing import Any

import numpy as np

from tlx.base.errors import DataError
from tlx.base.files import read_json

FORMAT = 1
META = "meta.json"
TOKENS = "tokens.bin"
OFFSETS = "offsets.bin"
REPLIES = "replies.bin"


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
        if self.offsets[0] != 0 or self.offsets[-1] != self.num_tokens or (np.diff(self.offsets) <= 0).any():
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
    def fingerprint(self) -> str:
        """sha256 of tokens and document lengths: equal for equal text and tokenizer."""
        return self.meta["fingerprint"]


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
