"""Byte tokenizer: one id per UTF-8 byte, after the special ids and before the sentinels."""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tlx.base.files import sha256_json
from tlx.text import export
from tlx.text.config import TokenizerConfig
from tlx.text.pieces import Pieces, special_names
from tlx.text.tokenizer import write_definition
from tlx.text.vocabulary import NUM_SENTINELS, SPECIAL_PIECES, Vocabulary

_OFFSET = len(SPECIAL_PIECES)


class BytesTokenizer:
    """Tokenizer with id = byte + 7; the vocabulary has 7 + 256 + 100 ids, regardless of `vocab_size`."""

    def __init__(self) -> None:
        self.vocab = Vocabulary(_OFFSET + 256 + NUM_SENTINELS)
        self._names = special_names(self.vocab.size)
        pieces = [b""] * self.vocab.size
        pieces[_OFFSET : _OFFSET + 256] = [bytes([value]) for value in range(256)]
        self._pieces = Pieces(self.vocab, pieces)
        self.starts_word = self._pieces.starts_word
        self.ends_sentence = self._pieces.ends_sentence
        self.num_bytes = self._pieces.num_bytes
        self.hash = sha256_json({"kind": "bytes", "special": SPECIAL_PIECES, "sentinels": NUM_SENTINELS})

    @classmethod
    def make(cls, config: TokenizerConfig, texts: Iterable[str]) -> "BytesTokenizer":
        """Return the tokenizer; nothing is trained."""
        del config, texts
        return cls()

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "BytesTokenizer":
        """Return the tokenizer; it has no files besides tokenizer.json."""
        del folder, definition
        return cls()

    def save(self, folder: str | os.PathLike) -> None:
        """Write tokenizer.json."""
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        write_definition(folder, {"kind": "bytes", "hash": self.hash})

    def export(self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]]) -> None:
        """Write tokenizer.json for other programs; `frame` holds the ids added before and after a text."""
        tokenizer = export.bytes_tokenizer(_OFFSET, self._names)
        export.write(folder, tokenizer, self.vocab, self._names, frame)

    def encode(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of a text as ids."""
        return [value + _OFFSET for value in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return int32 [bytes] ids of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + _OFFSET for text in texts]

    def count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, all of which its ids stand for."""
        return len(text.encode())

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Decode ids; special ids are dropped unless `keep_special`."""
        if keep_special:
            return self._pieces.decode_named(ids, self._names)
        return self._pieces.decode(ids)

    def piece_bytes(self, index: int) -> bytes:
        """Return the text that one id stands for, in UTF-8; empty for a special id."""
        return self._pieces.bytes[index]

    def piece(self, index: int) -> str:
        """Return an id for display: "a", "<0xEA>" or "<mask>"."""
        if index in self._names:
            return self._names[index]
        value = index - _OFFSET
        return chr(value) if 0x20 <= value < 0x7F else f"<0x{value:02X}>"
