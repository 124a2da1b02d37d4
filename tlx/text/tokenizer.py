"""The interface of tokenizers, and how one is built, saved and loaded."""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from tlx.base import place as places
from tlx.base.errors import ConfigError, DataError
from tlx.base.files import read_json, write_json
from tlx.base.lookup import Table
from tlx.base.place import BucketPath
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
        "missing": "tlx.text.missing_tokenizer:MissingTokenizer",
        "word_pairs": "tlx.text.word_pairs_tokenizer:WordPairsTokenizer",
        "bytes": "tlx.text.bytes_tokenizer:BytesTokenizer",
        "added": "tlx.text.added_tokens:AddedTokens",
    },
)


class Tokenizer(Protocol):
    """A lossless map from text to ids: `decode(encode(text)) == text` for every valid str."""

    vocab: Vocabulary
    """Size and special ids."""
    starts_word: np.ndarray
    """bool[V], whether the piece begins a word; for whole-word masking."""
    ends_sentence: np.ndarray
    """bool[V], whether the piece ends a line, or a sentence with . ! ? and their like."""
    num_bytes: np.ndarray
    """int32[V], bytes of text that the id stands for; 0 for special ids."""
    hash: str
    """sha256 of what defines the map."""

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special ids."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts to int32 arrays, outside the interpreter lock where the library can."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Decode ids; special ids are dropped, or shown as their pieces with `keep_special`."""
        ...

    def piece(self, index: int) -> str:
        """Return the piece of one id, for display."""
        ...

    def piece_bytes(self, index: int) -> bytes:
        """Return the text that one id stands for, in UTF-8; empty for a special id."""
        ...

    def count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, without those of names of special ids that `encode` finds in it.

        It is the sum of `num_bytes` over the ids of the text where the tokenizer is lossless.
        """
        ...

    def save(self, folder: str | os.PathLike) -> None:
        """Write everything that `load_tokenizer` needs."""
        ...

    def export(self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]]) -> None:
        """Write the files that other programs read; `frame` holds the ids before and after a text."""
        ...


def make_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Build the tokenizer of a config; `texts` is read only where a vocabulary is trained.

    The same config and texts give the same tokenizer, hash included, on every machine. Raises ConfigError
    where the config is not usable.
    """
    config.validate()
    if config.path is not None:
        tokenizer = load_tokenizer(config.path)
    else:
        tokenizer = TABLE.load(config.kind).make(config, texts)
    if not config.add:
        return tokenizer
    # Imported where it is used: it is a tokenizer itself, and imports this file.
    from tlx.text.added_tokens import added_to

    return added_to(tokenizer, config.add)


def load_tokenizer(folder: str | os.PathLike | BucketPath) -> Tokenizer:
    """Load what `save` wrote; DataError where a file is missing, damaged or from a newer tlx."""
    if places.is_bucket(folder):
        folder = places.fetched_folder(places.parse(folder))
    assert not isinstance(folder, BucketPath)
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
    """Write tokenizer.json; called last, so that a folder that has one is complete."""
    write_json(pathlib.Path(folder) / FILE, {"format": FORMAT, **definition})
