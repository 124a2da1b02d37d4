"""A split's tokens on disk: one flat memory-mapped array and where its documents begin."""

import pathlib
from typing import Any

import numpy as np

from tlx.base.errors import DataError
from tlx.base.files import read_json

FORMAT = 1
META, TOKENS, OFFSETS, REPLIES = "meta.json", "tokens.bin", "offsets.bin", "replies.bin"


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class TokenCache:
    """Read-only view of a token cache. Pickles as its path: data workers map the same pages.

    `tokens` [N] uint16 or uint32; `offsets` [D + 1] int64, document d is tokens[offsets[d]:offsets[d+1]],
    eos included where the cache was made with it. No document is empty. `replies` [R] int64 are the places
    where the turns of conversations begin, but the first of each.
    """

    def __init__(self, folder: str | pathlib.Path):
        """Maps the files; DataError naming what does not fit."""
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
        if self.meta["max_token"] >= self.meta["vocab_size"]:
            raise DataError(
                f"{self.folder / TOKENS} holds token {self.meta['max_token']}, outside its vocabulary "
                f"of {self.meta['vocab_size']}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCache, (str(self.folder),)

    @property
    def num_tokens(self) -> int:
        """N, eos included."""
        return self.meta["num_tokens"]

    @property
    def num_documents(self) -> int:
        """D."""
        return self.meta["num_documents"]

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the documents' text."""
        return self.meta["num_bytes"]

    @property
    def fingerprint(self) -> str:
        """sha256 of the tokens and the lengths of the documents: equal text and tokenizer, equal value."""
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
    """A plain array over the mapped file (np.memmap's own slices cost microseconds each)."""
    try:
        size = path.stat().st_size
        if size != count * dtype.itemsize:
            raise DataError(f"{path} is damaged: {size} bytes instead of {count * dtype.itemsize}")
        return np.asarray(np.memmap(path, dtype, "r"))
    except OSError as error:
        raise DataError(f"cannot read the token cache: {error}") from error
