"""The characters of every id of a vocabulary: the bytes of its piece, between marks (ELMo's spelling)."""

import numpy as np

from tlx.text.tokenizer import Tokenizer

# Ids above the bytes: begin and end of a text as characters of a token, begin and end of a token, nothing.
TEXT_BEGIN, TEXT_END, BEGIN, END, PAD = range(256, 261)
NUM_CHARACTERS = 261


def spell(text: bytes, length: int) -> np.ndarray:
    """int32 [length]: BEGIN, the first length - 2 bytes of `text`, END, and PAD behind it."""
    return _framed(list(text[: length - 2]), length)


def character_table(tokenizer: Tokenizer, length: int) -> np.ndarray:
    """int32 [V, length]: each id spelled; bos and eos are a character of their own, the pad has none."""
    vocab = tokenizer.vocab
    table = np.stack([spell(tokenizer.piece_bytes(index), length) for index in range(vocab.size)])
    table[vocab.bos], table[vocab.eos] = _framed([TEXT_BEGIN], length), _framed([TEXT_END], length)
    table[vocab.pad] = PAD
    return table


def _framed(body: list[int], length: int) -> np.ndarray:
    ids = np.full(length, PAD, np.int32)
    ids[: len(body) + 2] = [BEGIN, *body, END]
    return ids
