"""A tokenizer with special tokens added to it: `tokenizer.add`.

Their ids follow those of the tokenizer that they are added to. A name that stands in a text is encoded as its id; the
text around it is encoded as it was.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.base.files import atomic_open, sha256_json
from tlx.text.config import TokenizerConfig, check_added
from tlx.text.spans import encode_with_spans
from tlx.text.tokenizer import Tokenizer, load_tokenizer, write_definition

_FOLDER = "tokenizer"  # of the inner tokenizer, inside a tokenizer's folder
_EXPORTED = "tokenizer.json"


class AddedTokens:
    """The tokenizer `inner` with further special ids, one for each of `names`."""

    def __init__(self, inner: Tokenizer, names: Sequence[str]):
        """Add names to a tokenizer; raise ConfigError where it has one of them already."""
        self.inner = inner
        self.names = tuple(names)
        first = inner.vocab.size
        known = {inner.piece(index) for index in range(first)}
        for name in self.names:
            if name in known:
                raise ConfigError(f"tokenizer.add: the tokenizer has a token {name!r} already; leave it out")
        self._ids = {name: first + i for i, name in enumerate(self.names)}
        # The longest name first, where one begins with another.
        longest = sorted(self.names, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, longest)) + ")")
        count = len(self.names)
        vocab = inner.vocab
        self.vocab = dataclasses.replace(
            vocab, size=first + count, added=vocab.added + count, named=vocab.named + count
        )
        self.starts_word = np.append(inner.starts_word, np.ones(count, bool))
        self.ends_sentence = np.append(inner.ends_sentence, np.zeros(count, bool))
        self.num_bytes = np.append(inner.num_bytes, np.zeros(count, np.int32)).astype(np.int32)
        self.hash = sha256_json({"inner": inner.hash, "names": list(self.names)})

    def __reduce__(self) -> tuple[Any, ...]:
        return AddedTokens, (self.inner, self.names)

    def __getattr__(self, name: str) -> Any:
        # What tokenizers of other programs have beyond the interface: files, frames, settings.
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    @classmethod
    def make(cls, config: TokenizerConfig, texts: Iterable[str]) -> "AddedTokens":
        """Raise ConfigError: `tokenizer.add` makes one of another kind."""
        del config, texts
        raise ConfigError("tokenizer.kind = 'added' is made by tokenizer.add, not by itself")

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "AddedTokens":
        """Load what `save` wrote. Raises DataError where its hash is not the one in tokenizer.json."""
        tokenizer = cls(load_tokenizer(folder / _FOLDER), definition["names"])
        if tokenizer.hash != definition["hash"]:
            raise DataError(f"{folder} is damaged: its hash is not the one in tokenizer.json")
        return tokenizer

    def save(self, folder: str | os.PathLike) -> None:
        """Write the tokenizer that they are added to into a folder of its own, and the names."""
        folder = pathlib.Path(folder)
        self.inner.save(folder / _FOLDER)
        write_definition(folder, {"kind": "added", "hash": self.hash, "names": list(self.names)})

    def export(self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]]) -> None:
        """Write the files that other programs read, the added tokens in tokenizer.json.

        Raises:
            ConfigError: The tokenizer has no tokenizer.json, in which they could be.
        """
        self.inner.export(folder, frame)
        path = pathlib.Path(folder) / _EXPORTED
        if not path.is_file():
            raise ConfigError(
                f"the special tokens {', '.join(self.names)} were added to a tokenizer without a tokenizer.json, "
                "and cannot be exported with it"
            )
        definition = json.loads(path.read_text(encoding="utf-8"))
        tokens = definition.setdefault("added_tokens", [])
        first = self.inner.vocab.size
        written = {token["id"] for token in tokens} | _ids_of(definition["model"].get("vocab", {}))
        # Ids that tlx added for roles: the library numbers added tokens without gaps.
        missing = [index for index in range(first) if index >= first - self.inner.vocab.added]
        names = {index: self.inner.piece(index) for index in missing if index not in written}
        for index, name in sorted({**names, **{i: n for n, i in self._ids.items()}}.items()):
            tokens.append(_token(index, name))
        with atomic_open(path, "wb") as handle:
            handle.write(json.dumps(definition, ensure_ascii=False, indent=2).encode())

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special ids; added names in it become their ids."""
        parts = self._split(text)
        if len(parts) == 1:
            return self.inner.encode(text)
        ids: list[int] = []
        for part in parts:
            ids += [self._ids[part]] if part in self._ids else self.inner.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts to int32 arrays."""
        # Most texts hold no added name, and go through the library together.
        plain = [row for row, text in enumerate(texts) if not self._pattern.search(text)]
        encoded = dict(zip(plain, self.inner.encode_batch([texts[row] for row in plain]), strict=True))
        return [
            encoded[row] if row in encoded else np.array(self.encode(text), np.int32)
            for row, text in enumerate(texts)
        ]

    def encode_with_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return ids int32 [n], and their character spans int32 [n, 2]."""
        ids = [np.zeros(0, np.int32)]
        spans = [np.zeros((0, 2), np.int32)]
        start = 0
        for part in self._split(text):
            if part in self._ids:
                ids.append(np.array([self._ids[part]], np.int32))
                spans.append(np.array([[start, start + len(part)]], np.int32))
            elif part:
                part_ids, part_spans = encode_with_spans(self.inner, part)
                ids.append(part_ids)
                spans.append(part_spans + start)
            start += len(part)
        return np.concatenate(ids), np.concatenate(spans).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Decode ids; special ids are dropped unless `keep_special`."""
        first = self.inner.vocab.size
        parts = []
        run: list[int] = []
        for index in map(int, ids):
            if index < first:
                run.append(index)
            elif keep_special:
                parts += [self.inner.decode(run, keep_special=True), self.names[index - first]]
                run = []
        return "".join([*parts, self.inner.decode(run, keep_special=keep_special)])

    def piece(self, index: int) -> str:
        """Return the piece of one id, for display."""
        first = self.inner.vocab.size
        return self.names[index - first] if index >= first else self.inner.piece(index)

    def piece_bytes(self, index: int) -> bytes:
        """Return the text that one id stands for, in UTF-8; empty for a special id."""
        return b"" if index >= self.inner.vocab.size else self.inner.piece_bytes(index)

    def count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, without those of names of special ids in it."""
        return sum(self.inner.count_bytes(part) for part in self._split(text) if part not in self._ids)

    def _split(self, text: str) -> list[str]:
        """Split a text before and after each added name."""
        return [part for part in self._pattern.split(text) if part] or [""]


def added_to(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with those special tokens added that were not added to it before.

    Raises:
        ConfigError: It has one of them as an ordinary token, or one is no name.
    """
    check_added(names)
    before = tokenizer.names if isinstance(tokenizer, AddedTokens) else ()
    missing = [name for name in names if name not in before]
    return AddedTokens(tokenizer, missing) if missing else tokenizer


def _token(index: int, name: str) -> dict[str, Any]:
    """Return an entry of added_tokens in tokenizer.json."""
    return {
        "id": index,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _ids_of(vocab: Any) -> set[int]:
    """Return the ids of a model of tokenizer.json: a dict of pieces, or a list of [piece, score]."""
    return set(vocab.values()) if isinstance(vocab, dict) else set(range(len(vocab)))
