"""Stand-in for the tokenizer of a Hugging Face directory that has none: special ids, no text."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tlx.base.errors import ConfigError
from tlx.text.config import TokenizerConfig
from tlx.text.tokenizer import write_definition
from tlx.text.vocabulary import ROLES, SPECIAL_PIECES, Vocabulary


class MissingTokenizer:
    """Ids without texts, as far as config.json names them: `roles` are its special ids, `size` its vocab_size.

    Special ids that a vocabulary of tlx needs and config.json does not name are added after the last id.
    """

    def __init__(self, size: int, roles: Mapping[str, int]):
        self._size = size
        self._roles = dict(roles)
        added = [role for role in ROLES if role not in roles]
        ids = {**roles, **{role: size + number for number, role in enumerate(added)}}
        self._names = {ids[role]: SPECIAL_PIECES[ROLES.index(role)] for role in ROLES}
        self.vocab = Vocabulary(size + len(added), **ids, num_sentinels=0, added=len(added))
        self.num_bytes = np.zeros(self.vocab.size, np.int32)
        self.starts_word = np.zeros(self.vocab.size, bool)
        self.ends_sentence = np.zeros(self.vocab.size, bool)
        content = json.dumps([size, sorted(self._roles.items())])
        self.hash = hashlib.sha256(f"missing {content}".encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return MissingTokenizer, (self._size, self._roles)

    @classmethod
    def from_config(cls, size: int, values: Mapping[str, Any]) -> "MissingTokenizer":
        """Take the special ids of a config.json; of several ids of one role the first."""
        roles = {}
        for role in ROLES:
            index = values.get(f"{role}_token_id")
            if isinstance(index, list) and index:
                index = index[0]
            if isinstance(index, int) and 0 <= index < size:
                roles[role] = index
        start = values.get("decoder_start_token_id")
        if isinstance(start, int) and 0 <= start < size:
            roles["bos"] = start
        return cls(size, roles)

    @classmethod
    def make(cls, config: TokenizerConfig, texts: Iterable[str]) -> "MissingTokenizer":
        """Raise ConfigError: there is nothing to train."""
        del config, texts
        raise ConfigError("tokenizer.kind: a missing tokenizer cannot be trained")

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "MissingTokenizer":
        """Load what `save` wrote."""
        del folder
        return cls(definition["model_size"], definition["roles"])

    def save(self, folder: str | os.PathLike) -> None:
        """Write the tokenizer.json of tlx, which holds the special ids."""
        os.makedirs(folder, exist_ok=True)
        definition = {"kind": "missing", "hash": self.hash, "model_size": self._size, "roles": self._roles}
        write_definition(folder, definition | {"size": self.vocab.size})

    def export(
        self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]] | None = None
    ) -> None:
        """Write nothing: the exported directory has no tokenizer, as the imported one had none."""

    def encode(self, text: str) -> list[int]:
        """Raise ConfigError: there are no pieces of text."""
        del text
        self._refuse()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Raise ConfigError: there are no pieces of text."""
        del texts
        self._refuse()

    def encode_with_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Raise ConfigError: there are no pieces of text."""
        del text
        self._refuse()

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Raise ConfigError: there are no pieces of text."""
        del ids, keep_special
        self._refuse()

    def piece(self, index: int) -> str:
        """Return the name of a special id, "" for others."""
        return self._names.get(int(index), "")

    def piece_bytes(self, index: int) -> bytes:
        """Return no text."""
        del index
        return b""

    def count_bytes(self, text: str) -> int:
        """Return the number of bytes of a text in UTF-8."""
        return len(text.encode())

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            "this model was imported from a directory without a tokenizer: it reads and writes ids (logits), no "
            "texts; put its tokenizer's files (tokenizer.json) beside config.json and load it again"
        )
