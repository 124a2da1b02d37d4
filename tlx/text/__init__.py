"""Tokenizers and their vocabularies, and the pieces of text that objectives read."""

from tlx.text.config import TokenizerConfig
from tlx.text.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from tlx.text.vocabulary import Vocabulary

__all__ = [
    "Tokenizer",
    "TokenizerConfig",
    "Vocabulary",
    "load_tokenizer",
    "make_tokenizer",
]
