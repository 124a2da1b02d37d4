"""Tokenizers and their vocabularies, and the pieces of text that objectives read."""

from tlx.text.vocabulary import Vocabulary
from tlx.text.window import Reads, Window

__all__ = ["Reads", "Vocabulary", "Window"]
