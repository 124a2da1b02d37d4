"""Tokenizers, vocabularies and chat templates."""

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
