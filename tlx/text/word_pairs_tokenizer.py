"""Byte-pair encodings within words of CTRL and XLM: vocab.json and merges.txt, with the same ids for any text.

The `tokenizers` library has no file for them: both cut a text into words first, CTRL at white space, XLM by the rules
of Moses (the package sacremoses), and mark the pieces of a word in a way of their own.
"""

import functools
import hashlib
import importlib
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.text.imported_files import (
    hashed_content,
    number_roles,
    pattern_of,
    read_imported,
    read_stored,
    stated_roles,
    write_files,
)
from tlx.text.pieces import Pieces
from tlx.text.tokenizer import write_definition
from tlx.text.vocabulary import ROLES, SPECIAL_PIECES, Vocabulary

VOCAB = "vocab.json"
MERGES = "merges.txt"
CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
_FOLDER = "word_pairs"  # inside a tokenizer's folder
_END = "</w>"
# Moses' replacements of full-width punctuation (replace-unicode-punctuation.perl).
_PUNCTUATION = str.maketrans(
    {
        pair[0]: pair[1]
        for pair in (
            '，, 、, ”" “" ∶: ：: ？? 《" 》" ）) ！! （( ；; １1 」" 「" ０0 ３3 ２2 ５5 ６6 ９9 ７7 ８8 ４4 '
            "～~ ’' ━- 〈< 〉> 【[ 】] ％%"
        ).split()
    }
)


class WordPairsFormat(NamedTuple):
    """Special pieces of a model family, and the ids that it adds to a text."""

    roles: dict[str, str]
    """Piece of each role of special ids."""
    names: tuple[str, ...] = ()
    """Other pieces that are recognised in a text as a whole."""
    before: tuple[str, ...] = ()
    """Roles of the ids added before a text."""
    behind: tuple[str, ...] = ()
    """Roles of the ids added after a text."""
    skipped_lines: int = 0
    """Lines at the beginning of merges.txt that are no merges."""


LAYOUTS = {
    "ctrl": WordPairsFormat({"unk": "<unk>"}, skipped_lines=1),
    "xlm": WordPairsFormat(
        {
            "bos": "<s>",
            "sep": "</s>",
            "cls": "</s>",
            "pad": "<pad>",
            "unk": "<unk>",
            "mask": "<special1>",
        },
        names=tuple(f"<special{index}>" for index in range(10)),
        before=("bos",),
        behind=("sep",),
    ),
}


class WordPairsTokenizer:
    """Tokenizer of a CTRL or an XLM directory.

    `layout` is the `model_type` of the model's config.json, a key of LAYOUTS. `start` is as for
    HuggingFaceTokenizer.
    """

    def __init__(self, files: Mapping[str, bytes], layout: str, start: int | None = None):
        if layout not in LAYOUTS:
            raise ConfigError(one_of("the layout of vocab.json and merges.txt", layout, LAYOUTS))
        self.files = dict(files)
        self.name = layout
        self.start = start
        self.layout = LAYOUTS[layout]
        try:
            self._ids: dict[str, int] = json.loads(self.files[VOCAB])
            self._config = json.loads(self.files.get(CONFIGS[0], b"{}"))
            lines = self.files[MERGES].decode().split("\n")[self.layout.skipped_lines : -1]
            mapped = json.loads(self.files.get(CONFIGS[1], b"{}"))
        except (KeyError, ValueError) as error:
            raise DataError(f"the tokenizer of the {layout} cannot be read: {error}") from error
        self._ranks = {tuple(line.split()[:2]): rank for rank, line in enumerate(lines)}
        self._names = {index: piece for piece, index in self._ids.items()}
        size = 1 + max(self._names)
        known = self.layout.roles | stated_roles(mapped | self._config)
        known_ids = {role: self._ids[piece] for role, piece in known.items() if piece in self._ids}
        roles, added = number_roles(known_ids, size)
        self._names |= {roles[role]: SPECIAL_PIECES[ROLES.index(role)] for role in added}
        if start is not None:
            roles["bos"] = start
        self.vocab = Vocabulary(size + len(added), **roles, num_sentinels=0, added=len(added))
        self._special = {self._names[roles[role]]: roles[role] for role in ROLES if role not in added}
        self._special |= {name: self._ids[name] for name in self.layout.names if name in self._ids}
        self._pieces = Pieces(self.vocab, [self._bytes(index) for index in range(self.vocab.size)])
        self.num_bytes = self._pieces.num_bytes
        self.starts_word = self._pieces.starts_word
        self.ends_sentence = self._pieces.ends_sentence
        self.hash = _hash(self.files, layout, start)

    def __reduce__(self) -> tuple[Any, ...]:
        return WordPairsTokenizer, (self.files, self.name, self.start)

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike, layout: str, start: int | None = None
    ) -> "WordPairsTokenizer":
        """Load a folder that holds vocab.json and merges.txt.

        Args:
            folder: Folder of the model.
            layout: `model_type` of its config.json, a key of LAYOUTS.
            start: Id that the decoder begins with, which becomes bos; None: the bos of the model.

        Returns:
            The tokenizer.

        Raises:
            ConfigError: The layout is not known.
            DataError: A file is missing or cannot be read.
        """
        files, _ = read_imported(pathlib.Path(folder), (VOCAB, MERGES, *CONFIGS))
        return cls(files, layout, start)

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "WordPairsTokenizer":
        """Load what `save` wrote. Raises DataError where its sha256 is not the one in tokenizer.json."""
        inner = folder / _FOLDER
        files = read_stored(inner, definition["files"])
        if _hash(files, definition["layout"], definition["start"]) != definition["hash"]:
            raise DataError(f"{inner} is damaged: its sha256 is not the one in {folder / 'tokenizer.json'}")
        return cls(files, definition["layout"], definition["start"])

    def save(self, folder: str | os.PathLike) -> None:
        """Write the imported files to word_pairs/, and the tokenizer.json of tlx."""
        self.export(pathlib.Path(folder) / _FOLDER)
        definition = {
            "kind": "word_pairs",
            "hash": self.hash,
            "files": sorted(self.files),
            "layout": self.name,
            "start": self.start,
            "size": self.vocab.size,
        }
        write_definition(folder, definition)

    def export(
        self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]] | None = None
    ) -> None:
        """Write the imported files for other programs; their class knows the frame, so `frame` is not used."""
        write_files(folder, self.files)

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special ids that the family adds before and after a text."""
        before = [getattr(self.vocab, role) for role in self.layout.before]
        behind = [getattr(self.vocab, role) for role in self.layout.behind]
        return before, behind

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special ids; names of special ids in the text become those ids."""
        ids: list[int] = []
        for part in self._by_name.split(text):
            if part in self._special:
                ids.append(self._special[part])
            elif part:
                pieces = [piece for word in self._words(part) for piece in self._pieces_of(word)]
                ids += [self._ids.get(piece, self.vocab.unk) for piece in pieces]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts to int32 arrays."""
        return [np.array(self.encode(text), np.int32) for text in texts]

    def count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, without those of names of special ids in it."""
        return sum(len(part.encode()) for part in self._by_name.split(text) if part not in self._special)

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Decode ids, with one space between words; special ids are dropped unless `keep_special`."""
        special = set() if keep_special else {*self._special.values()}
        unadded = self.vocab.size - self.vocab.added
        pieces = [self._names[int(i)] for i in ids if int(i) not in special and int(i) < unadded]
        if self.name == "ctrl":
            return " ".join(pieces).replace("@@ ", "").strip()
        return "".join(pieces).replace(_END, " ").strip()

    def piece(self, index: int) -> str:
        """Return an id as the vocabulary writes it."""
        return self._names[int(index)]

    def piece_bytes(self, index: int) -> bytes:
        """Return the text that one id stands for, in UTF-8; empty for a special id."""
        return self._pieces.bytes[index]

    def _bytes(self, index: int) -> bytes:
        """Bytes of a piece, with the space after a word (see `count_bytes` for those of a text)."""
        piece = self._names.get(index, "")
        if piece in self._special or index >= self.vocab.size - self.vocab.added:
            return b""
        if self.name == "ctrl":
            return (piece.removesuffix("@@") if piece.endswith("@@") else f"{piece} ").encode()
        return piece.replace(_END, " ").encode()

    @functools.cached_property
    def _by_name(self) -> re.Pattern[str]:
        """Pattern of the names of special ids, longest first."""
        return pattern_of(self._special)

    def _words(self, text: str) -> list[str]:
        """Cut a text into words."""
        if self.name == "ctrl":
            return re.findall(r"\S+\n?", text)
        words = moses_words(text)
        if self._config.get("do_lowercase_and_remove_accent", True):
            decomposed = unicodedata.normalize("NFD", " ".join(words).lower())
            words = "".join(c for c in decomposed if unicodedata.category(c) != "Mn").lower().split(" ")
        return [word for word in words if word]

    def _pieces_of(self, word: str) -> list[str]:
        """Cut a word into pieces of the vocabulary, marked as the family marks them."""
        pieces = _merged(word, self._ranks)
        if self.name == "ctrl":
            return [f"{piece}@@" for piece in pieces[:-1]] + [pieces[-1].removesuffix(_END)]
        return pieces


def moses_words(text: str) -> list[str]:
    """Cut an English text into words as XLM does. Raises ConfigError where sacremoses is not installed."""
    try:
        sacremoses = importlib.import_module("sacremoses")
    except ModuleNotFoundError as error:
        raise ConfigError("the tokenizer of an XLM needs sacremoses: pip install sacremoses") from error
    normalizer, tokenizer = _moses(sacremoses)
    text = re.sub(r"．\s*", ". ", re.sub(r"。\s*", ". ", text).translate(_PUNCTUATION).replace("…", "..."))
    text = normalizer.normalize(text)
    text = "".join(c for c in text if not unicodedata.category(c).startswith("C"))
    return tokenizer.tokenize(text, return_str=False, escape=False)


@functools.lru_cache(1)
def _moses(sacremoses: Any) -> tuple[Any, Any]:
    return sacremoses.MosesPunctNormalizer(lang="en"), sacremoses.MosesTokenizer(lang="en")


def _merged(word: str, ranks: Mapping[tuple[str, ...], int]) -> list[str]:
    """Merge the neighbours with the best rank, all of its occurrences at once, until none has a rank."""
    pieces = [*word[:-1], word[-1] + _END]
    while len(pieces) > 1:
        pairs = list(zip(pieces, pieces[1:], strict=False))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        merged: list[str] = []
        index = 0
        while index < len(pieces):
            is_pair = index + 1 < len(pieces) and (pieces[index], pieces[index + 1]) == best
            merged.append("".join(best) if is_pair else pieces[index])
            index += 2 if is_pair else 1
        pieces = merged
    return pieces


def _hash(files: Mapping[str, bytes], layout: str, start: int | None) -> str:
    return hashlib.sha256(hashed_content(files) + f"layout={layout} start={start}".encode()).hexdigest()
