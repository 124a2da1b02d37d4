"""What a tokenizer is, and how one is made, saved and opened again."""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.base.files import read_json, write_json
from tlx.base.lookup import Table
from tlx.text.config import TokenizerConfig
from tlx.text.vocabulary import Vocabulary

FILE = "tokenizer.json"
FORMAT = 1

TABLE = Table(
    "tokenizer.kind",
    {
        "sentencepiece": "tlx.text.sentencepiece_tokenizer:SentencePieceTokenizer",
        "huggingface": "tlx.text.huggingface_tokenizer:HuggingFaceTokenizer",
        "imported_sentencepiece": "tlx.text.imported_sentencepiece:ImportedSentencePiece",
        "bytes": "tlx.text.bytes_tokenizer:BytesTokenizer",
    },
)


class Tokenizer(Protocol):
    """Text to ids and back without loss: `decode(encode(text)) == text` for every valid str."""

    vocab: Vocabulary
    starts_word: np.ndarray  # bool [V]: the piece begins a word, for whole-word masks
    ends_sentence: np.ndarray  # bool [V]: the piece ends a line, or a sentence with . ! ? and their like
    num_bytes: np.ndarray  # int32 [V]: bytes of text that the id stands for, 0 for special ids
    hash: str  # sha256 of what defines the mapping

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special ids added."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text. Runs outside the interpreter lock where the library can."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Text of `ids`; special ids vanish, or show as their pieces with `keep_special`."""
        ...

    def piece(self, index: int) -> str:
        """How one id is written, for people."""
        ...

    def piece_bytes(self, index: int) -> bytes:
        """The text that one id stands for, UTF-8; nothing for a special id."""
        ...

    def save(self, folder: str | os.PathLike) -> None:
        """Writes everything that `load_tokenizer` needs."""
        ...

    def export(self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]]) -> None:
        """Writes tokenizer.json and what else other programs read; `frame`: ids before and behind a text."""
        ...


def make_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that `config` asks for; `texts` is read only where a vocabulary is trained.

    The same config and texts give the same tokenizer, hash included, on every machine.
    """
    config.validate()
    if config.path is not None:
        return load_tokenizer(config.path)
    return TABLE.load(config.kind).make(config, texts)


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """Opens what `save` wrote. DataError where a file is missing, damaged or from a newer tlx."""
    path = pathlib.Path(folder) / FILE
    try:
        definition = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the tokenizer {path}: {error}") from error
    if definition.get("format") != FORMAT:
        raise DataError(f"{path} has format {definition.get('format')!r}; this version of tlx reads {FORMAT}")
    try:
        kind = TABLE.load(definition["kind"], allow=())
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error
    return kind.load(pathlib.Path(folder), definition)


def write_definition(folder: str | os.PathLike, definition: dict[str, Any]) -> None:
    """Writes tokenizer.json, last, so that a folder with one is complete."""
    write_json(pathlib.Path(folder) / FILE, {"format": FORMAT, **definition})
