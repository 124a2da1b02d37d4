"""One id per UTF-8 byte, behind the special ids and before the sentinels."""

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
    """id = byte + 7; the vocabulary has 7 + 256 + 100 ids whatever `vocab_size` says."""

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
        """Nothing is trained."""
        del config, texts
        return cls()

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "BytesTokenizer":
        """Nothing is read beyond tokenizer.json."""
        del folder, definition
        return cls()

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json."""
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        write_definition(folder, {"kind": "bytes", "hash": self.hash})

    def export(self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]]) -> None:
        """Writes tokenizer.json for other programs; `frame`: ids put before and behind a text."""
        export.write(folder, export.bytes_tokenizer(_OFFSET, self._names), self.vocab, self._names, frame)

    def encode(self, text: str) -> list[int]:
        """UTF-8 bytes of `text`, shifted."""
        return [value + _OFFSET for value in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 [bytes of the text] for each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + _OFFSET for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Text of `ids`; special ids vanish unless `keep_special`."""
        if keep_special:
            return self._pieces.decode_named(ids, self._names)
        return self._pieces.decode(ids)

    def piece_bytes(self, index: int) -> bytes:
        """The text that one id stands for, UTF-8; nothing for a special id."""
        return self._pieces.bytes[index]

    def piece(self, index: int) -> str:
        """ "a", "<0xEA>" or "<mask>"."""
        if index in self._names:
            return self._names[index]
        value = index - _OFFSET
        return chr(value) if 0x20 <= value < 0x7F else f"<0x{value:02X}>"
