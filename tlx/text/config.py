"""Config of the tokenizer of a run."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Literal

from tlx.base.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer of a run, and how its vocabulary is trained on the text of the run."""

    kind: Literal["sentencepiece", "huggingface", "bytes"] = "sentencepiece"
    """sentencepiece (trained on the run's text), huggingface (needs `path`), or bytes."""
    vocab_size: int = 4096
    """Number of ids of a trained vocabulary, special ids, bytes and sentinels included; more than 364."""
    model_type: Literal["bpe", "unigram"] = "bpe"
    """Algorithm of SentencePiece that trains the vocabulary."""
    train_bytes: int = 100_000_000
    """Bytes of text that are read to train the vocabulary, spread evenly over the files."""
    path: str | None = None
    """Folder, or place in a bucket, of an existing tokenizer (tokenizer.json) that is used instead; None trains
    one."""

    add: tuple[str, ...] = ()
    """Special tokens added to the tokenizer, such as ("<user>", "<assistant>"): each is one id wherever it stands in
    a text. Fine-tuning of all parameters draws rows of the token table for them."""

    def validate(self) -> None:
        """Raise ConfigError, naming the field, its value and the legal ones, where a value is not usable."""
        if self.kind == "sentencepiece" and self.path is None and self.vocab_size <= 364:
            raise ConfigError(
                f"tokenizer.vocab_size = {self.vocab_size} must be more than 364: "
                "that many ids are special, bytes and sentinels"
            )
        check_added(self.add)
        if self.train_bytes < 1:
            raise ConfigError(f"tokenizer.train_bytes = {self.train_bytes} must be positive")
        if self.kind == "huggingface" and self.path is None:
            raise ConfigError("tokenizer.kind = 'huggingface' needs tokenizer.path")
        # One in a bucket is looked for where it is read.
        is_local = self.path is not None and "://" not in self.path
        if (
            self.path is not None
            and is_local
            and not os.path.isfile(os.path.join(self.path, "tokenizer.json"))
        ):
            raise ConfigError(f"tokenizer.path = {self.path!r} is not a folder with a tokenizer.json")


def check_added(names: Sequence[str]) -> None:
    """Raise ConfigError where one of the special tokens of tokenizer.add cannot be one."""
    for name in names:
        if not name or name != name.strip() or names.count(name) > 1:
            raise ConfigError(
                f"tokenizer.add = {tuple(names)}: {name!r} must be there once, without white space around it"
            )
