"""Tokenizers of other programs, run by the `tokenizers` library, with the same ids for any text.

Special ids that a vocabulary of tlx needs and the imported one lacks are added after its last id; cls and sep
serve as bos and eos where there is nothing else. The imported files are stored unchanged, and exported again.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.text.config import TokenizerConfig
from tlx.text.export import byte_letters, import_tokenizers
from tlx.text.frames import RowFrame, frame_of_encoding
from tlx.text.imported_files import (
    hashed_content,
    number_roles,
    read_imported,
    read_stored,
    settings_of,
    stated_roles,
    write_files,
)
from tlx.text.pieces import Pieces
from tlx.text.tokenizer import write_definition
from tlx.text.tokenizer_settings import obeyed, stated
from tlx.text.vocabulary import ROLES, SPECIAL_PIECES, Vocabulary

MAIN = "tokenizer.json"
CONFIG = "tokenizer_config.json"
# Files that `save_pretrained` writes for a tokenizer.
KNOWN = (
    MAIN, CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "chat_template.jinja",
)  # fmt: skip
# Size up to which a vocabulary may have any gaps.
_SMALL_VOCABULARY = 2**17
_FOLDER = "huggingface"  # inside a tokenizer's folder


class HuggingFaceTokenizer:
    """Tokenizer of a tokenizer.json, and of the special ids that the files beside it name.

    `start` is the id that the decoder of an encoder-decoder begins with, where its config.json names one; it
    becomes the bos of the vocabulary. `flags` are settings that count over tokenizer.json (tokenizer_settings.py).
    """

    def __init__(
        self, files: Mapping[str, bytes], start: int | None = None, flags: Mapping[str, Any] | None = None
    ):
        self.files = dict(files)
        self.start = start
        self.flags = dict(flags or {})
        original = json.loads(self.files[MAIN])
        definition = obeyed(original, self.flags)
        self._tokenizer = import_tokenizers().Tokenizer.from_str(json.dumps(definition))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        size = self._size()
        ids, added = number_roles(self._known_roles(), size)
        if start is not None:
            ids["bos"] = start
        self._added_pieces = {ids[role]: SPECIAL_PIECES[ROLES.index(role)] for role in added}
        byte_level_users = [definition.get("pre_tokenizer"), definition.get("decoder")]
        self._word_pieces = definition["model"].get("type") == "WordPiece"
        self._byte_level = '"ByteLevel"' in json.dumps(byte_level_users)
        known_tokens = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(index for index, token in known_tokens.items() if token.special)
        # Added tokens stand in a text as they are written, also in a byte-level vocabulary.
        self._added_text = {index: token.content for index, token in known_tokens.items()}
        self.vocab = Vocabulary(
            size + len(added), **ids, num_sentinels=self._num_sentinels(size), added=len(added)
        )
        self._pieces = Pieces(self.vocab, [self._bytes(index) for index in range(self.vocab.size)])
        self.num_bytes = self._pieces.num_bytes
        self.ends_sentence = self._pieces.ends_sentence
        self.starts_word = self._pieces.starts_word
        if self._word_pieces:
            self.starts_word = np.array([not self.piece(i).startswith("##") for i in range(self.vocab.size)])
        content = hashed_content(self.files)
        content += b"" if start is None else f"start={start}".encode()
        content += b"" if definition == original else json.dumps(self.flags, sort_keys=True).encode()
        self.hash = hashlib.sha256(content).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return HuggingFaceTokenizer, (self.files, self.start, self.flags)

    @classmethod
    def make(cls, config: TokenizerConfig, texts: Iterable[str]) -> "HuggingFaceTokenizer":
        """Raise ConfigError: a tokenizer of this kind is imported, not trained."""
        del config, texts
        raise ConfigError("tokenizer.kind = 'huggingface' needs tokenizer.path, a folder that was imported")

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, start: int | None = None) -> "HuggingFaceTokenizer":
        """Load a folder that `save_pretrained` wrote. Raises DataError where there is no tokenizer.json."""
        folder = pathlib.Path(folder)
        if not (folder / MAIN).is_file():
            raise DataError(
                f"{folder} has no {MAIN}; where transformers is installed, write one:\n"
                '  python -c "from transformers import AutoTokenizer as T; '
                f"T.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        files, model_config = read_imported(folder, KNOWN)
        return cls(files, start, stated(settings_of(files, CONFIG), model_config))

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "HuggingFaceTokenizer":
        """Load what `save` wrote. Raises DataError where its sha256 is not the one in tokenizer.json."""
        inner = folder / _FOLDER
        files = read_stored(inner, definition["files"])
        # Runs saved without flags keep their ids, whatever their tokenizer_config.json says.
        tokenizer = cls(files, definition.get("start"), definition.get("flags"))
        if tokenizer.hash != definition["hash"]:
            raise DataError(f"{inner} is damaged: its sha256 is not the one in {folder / MAIN}")
        return tokenizer

    def save(self, folder: str | os.PathLike) -> None:
        """Write the imported files to huggingface/, and the tokenizer.json of tlx."""
        inner = pathlib.Path(folder) / _FOLDER
        self.export(inner)
        definition = {"kind": "huggingface", "hash": self.hash, "files": sorted(self.files)}
        definition |= {} if self.start is None else {"start": self.start}
        definition |= {"flags": self.flags} if self.flags else {}
        write_definition(folder, definition | {"size": self.vocab.size})

    def export(
        self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]] | None = None
    ) -> None:
        """Write the imported files for other programs; they define their own frame, so `frame` is not used."""
        write_files(folder, self.files)

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special ids; names of special ids in the text become those ids."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    @functools.cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special ids that its post-processor adds before and after a text."""
        plain = self.encode("a")
        framed = self._tokenizer.encode("a").ids
        start = next(i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
        return framed[:start], framed[start + len(plain) :]

    def row_frame(self, num_texts: int) -> RowFrame:
        """Return the special ids that its post-processor puts around one text, or around and between two."""
        encoding = self._tokenizer.encode("a", "b") if num_texts == 2 else self._tokenizer.encode("a")
        return frame_of_encoding(encoding.ids, encoding.type_ids, encoding.sequence_ids, num_texts)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts to int32 arrays."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_with_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return ids int32 [n], and their character spans int32 [n, 2] in the text before normalisation."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        return ids, spans

    def count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, without those of names of special ids in it."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        # An unknown token has the id of a special one, but stands for the text that it spans.
        names = [
            text[start:stop]
            for index, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
            if index in self._special_ids and text[start:stop].strip() == self._added_text[index].strip()
        ]
        return len(text.encode()) - sum(len(name.encode()) for name in names)

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Decode ids with the imported decoder; special ids are dropped unless `keep_special`."""
        known = [int(index) for index in ids if int(index) not in self._added_pieces]
        return self._tokenizer.decode(known, skip_special_tokens=not keep_special)

    def piece_bytes(self, index: int) -> bytes:
        """Return the text that one id stands for, in UTF-8; empty for a special id."""
        return self._pieces.bytes[index]

    def piece(self, index: int) -> str:
        """Return an id as the vocabulary writes it."""
        return self._added_pieces.get(int(index)) or self._tokenizer.id_to_token(int(index)) or ""

    def _size(self) -> int:
        size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        # Ids may have gaps, but every token takes some bytes of the file: tables of `size` rows follow.
        if size > max(len(self.files[MAIN]), _SMALL_VOCABULARY):
            raise DataError(f"{MAIN} has an id of {size - 1:,}, and {len(self.files[MAIN]):,} bytes")
        return size

    def _known_roles(self) -> dict[str, int]:
        """{role: id} of the roles that the files name and whose token the vocabulary has."""
        settings: dict[str, Any] = {}
        for file in ("special_tokens_map.json", CONFIG):
            settings |= settings_of(self.files, file)
        ids = {role: self._tokenizer.token_to_id(token) for role, token in stated_roles(settings).items()}
        return {role: index for role, index in ids.items() if index is not None}

    def _num_sentinels(self, size: int) -> int:
        """Number of <extra_id_...> at the end of the vocabulary, of which <extra_id_0> is the last id."""
        count = 0
        while re.fullmatch(f"▁?<extra_id_{count}>", self._tokenizer.id_to_token(size - 1 - count) or ""):
            count += 1
        return count

    def _bytes(self, index: int) -> bytes:
        """Bytes that an id stands for; approximate where a normalizer changes the text (see `count_bytes`)."""
        piece = self.piece(index)
        if index in self._added_pieces or index in self._special_ids:
            return b""
        if index in self._added_text:
            return self._added_text[index].encode()
        if self._byte_level:
            return bytes(_BYTE_OF.get(letter, 0x3F) for letter in piece)
        if re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.removeprefix("##").replace("▁", " ").replace("</w>", " ").encode()


_BYTE_OF = {letter: byte for byte, letter in enumerate(byte_letters())}
