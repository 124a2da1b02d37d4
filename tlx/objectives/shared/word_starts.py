"""Word starts as in ALBERT's own code, for its whole words and n-grams."""

import string

import numpy as np

from tlx.text import Tokenizer

_SPACE = "▁"
_PUNCTUATION = frozenset(string.punctuation) | {"€", "£"}
_ENGLISH = frozenset(string.ascii_letters) | _PUNCTUATION


def albert_word_starts(tokenizer: Tokenizer) -> np.ndarray:
    """Return bool [V], the ids that begin a word (google-research/albert create_pretraining_data.py).

    On SentencePiece a word begins with a piece that has the mark of a space or "<" in front, that is a punctuation
    mark, or in which there is any character but English letters and punctuation: every piece of a language without
    spaces, every digit and every accented letter. On other vocabularies a word begins where the tokenizer says.
    """
    pieces = [tokenizer.piece(index) for index in range(tokenizer.vocab.size)]
    if not any(piece.startswith(_SPACE) for piece in pieces):
        return tokenizer.starts_word
    return np.array([_starts_word(piece) for piece in pieces]) | tokenizer.vocab.special


def _starts_word(piece: str) -> bool:
    return piece.startswith((_SPACE, "<")) or piece in _PUNCTUATION or not _ENGLISH.issuperset(piece)
