"""Tokenizers of other programs, run by the `tokenizers` library: the same ids as theirs for any text.

What a vocabulary of tlx needs and theirs lacks is added behind their last id; cls and sep serve as bos and
eos where there is nothing else. The files that came are kept as they are, and given back by an export.
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
from tlx.base.files import atomic_open
from tlx.text.config import TokenizerConfig
from tlx.text.export import byte_letters, library
from tlx.text.pieces import Pieces
from tlx.text.tokenizer import write_definition
from tlx.text.vocabulary import SPECIAL_PIECES, Vocabulary

ROLES = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")
MAIN = "tokenizer.json"
# Files that `save_pretrained` writes for a tokenizer.
KNOWN = (
    MAIN, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "chat_template.jinja",
)  # fmt: skip
_FOLDER = "huggingface"  # inside a tokenizer's folder


class HuggingFaceTokenizer:
    """A tokenizer.json and the special ids that the files around it name.

    start: id that the decoder's side of an encoder-decoder begins with, where its config.json names one:
    that is what the vocabulary's bos is for there.
    """

    def __init__(self, files: Mapping[str, bytes], start: int | None = None):
        self.files, self.start = dict(files), start
        self._tokenizer = library().Tokenizer.from_str(self.files[MAIN].decode())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        names, size = self._roles(), self._size()
        added = [role for role in ROLES if role not in names]
        ids = {role: self._tokenizer.token_to_id(name) for role, name in names.items()}
        ids |= {role: size + i for i, role in enumerate(added)}
        if start is not None:
            ids["bos"] = start
        self._extra = {ids[role]: SPECIAL_PIECES[ROLES.index(role)] for role in added}
        count = self._sentinels(size)
        text = json.loads(self.files[MAIN])
        self._word_pieces = text["model"].get("type") == "WordPiece"
        self._byte_level = '"ByteLevel"' in json.dumps([text.get("pre_tokenizer"), text.get("decoder")])
        more = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(index for index, token in more.items() if token.special)
        self.vocab = Vocabulary(size + len(added), **ids, num_sentinels=count, added=len(added))
        table = [self._bytes(index) for index in range(self.vocab.size)]
        self._pieces = pieces = Pieces(self.vocab, table)
        self.num_bytes, self.ends_sentence = pieces.num_bytes, pieces.ends_sentence
        self.starts_word = pieces.starts_word
        if self._word_pieces:
            self.starts_word = np.array([not self.piece(i).startswith("##") for i in range(self.vocab.size)])
        content = b"".join(k.encode() + self.files[k] for k in sorted(self.files))
        content += b"" if start is None else f"start={start}".encode()
        self.hash = hashlib.sha256(content).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return HuggingFaceTokenizer, (self.files, self.start)

    @classmethod
    def make(cls, config: TokenizerConfig, texts: Iterable[str]) -> "HuggingFaceTokenizer":
        """ConfigError: nothing is trained."""
        del config, texts
        raise ConfigError("tokenizer.kind = 'huggingface' needs tokenizer.path, a folder that was imported")

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, start: int | None = None) -> "HuggingFaceTokenizer":
        """From a directory that `save_pretrained` wrote. DataError where there is no tokenizer.json."""
        folder = pathlib.Path(folder)
        files = {name: (folder / name).read_bytes() for name in KNOWN if (folder / name).is_file()}
        if MAIN not in files:
            raise DataError(
                f"{folder} has no {MAIN}; where transformers is installed, write one:\n"
                '  python -c "from transformers import AutoTokenizer as T; '
                f"T.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        return cls(files, start)

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "HuggingFaceTokenizer":
        """Reads what `save` wrote, and compares its sha256 with tokenizer.json's."""
        inner = folder / _FOLDER
        try:
            files = {name: (inner / name).read_bytes() for name in definition["files"]}
        except OSError as error:
            raise DataError(f"cannot read the tokenizer: {error}") from error
        found = cls(files, definition.get("start"))
        if found.hash != definition["hash"]:
            raise DataError(f"{inner} is damaged: its sha256 is not the one in {folder / MAIN}")
        return found

    def save(self, folder: str | os.PathLike) -> None:
        """Writes huggingface/ with the files that came, and tlx's tokenizer.json."""
        inner = pathlib.Path(folder) / _FOLDER
        self.export(inner)
        definition = {"kind": "huggingface", "hash": self.hash, "files": sorted(self.files)}
        definition |= {} if self.start is None else {"start": self.start}
        write_definition(folder, definition | {"size": self.vocab.size})

    def export(
        self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]] | None = None
    ) -> None:
        """Writes the files that came, for other programs; they have a frame of their own."""
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            with atomic_open(pathlib.Path(folder) / name, "wb") as handle:
                handle.write(content)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special ids added (those that stand in it by name are found)."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    @functools.cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special ids that it puts before and behind a text, as its own post-processor has it."""
        alone, whole = self.encode("a"), self._tokenizer.encode("a").ids
        place = next(i for i in range(len(whole)) if whole[i : i + len(alone)] == alone)
        return whole[:place], whole[place + len(alone) :]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(row.ids, np.int32) for row in found]

    def encode_with_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n], characters of the text as it was, int32 [n, 2])."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return np.array(found.ids, np.int32), np.array(found.offsets, np.int32).reshape(-1, 2)

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Text of `ids`, as their own decoder writes it; special ids vanish unless `keep_special`."""
        known = [int(index) for index in ids if int(index) not in self._extra]
        return self._tokenizer.decode(known, skip_special_tokens=not keep_special)

    def piece_bytes(self, index: int) -> bytes:
        """The text that one id stands for, UTF-8; nothing for a special id."""
        return self._pieces.bytes[index]

    def piece(self, index: int) -> str:
        """As the vocabulary writes it."""
        return self._extra.get(int(index)) or self._tokenizer.id_to_token(int(index)) or ""

    def _size(self) -> int:
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def _roles(self) -> dict[str, str]:
        """{role: token} of the roles that the files name and the vocabulary has."""
        named: dict[str, Any] = {}
        for file in ("special_tokens_map.json", "tokenizer_config.json"):
            named |= json.loads(self.files.get(file, b"{}"))
        found = {}
        for role in ROLES:
            token = named.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and self._tokenizer.token_to_id(token) is not None:
                found[role] = token
        for role, stand_in in (("bos", "cls"), ("eos", "sep")):
            if role not in found and stand_in in found:
                found[role] = found[stand_in]
        return found

    def _sentinels(self, size: int) -> int:
        """How many <extra_id_...> are the last ids, counted downwards."""
        count = 0
        while re.fullmatch(f"▁?<extra_id_{count}>", self._tokenizer.id_to_token(size - 1 - count) or ""):
            count += 1
        return count

    def _bytes(self, index: int) -> bytes:
        """About what the id stands for in a text (a normalizer may have changed that)."""
        piece = self.piece(index)
        if index in self._extra or index in self._special_ids:
            return b""
        if self._byte_level:
            return bytes(_BYTE_OF.get(letter, 0x3F) for letter in piece)
        if re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.removeprefix("##").replace("▁", " ").replace("</w>", " ").encode()


_BYTE_OF = {letter: byte for byte, letter in enumerate(byte_letters())}
