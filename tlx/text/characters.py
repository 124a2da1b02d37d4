"""Characters of every id of a vocabulary: the bytes of its piece between marks, as in ELMo.

Shapes: W characters of an id.
"""

import numpy as np

from tlx.text.tokenizer import Tokenizer

# Character ids above the 256 bytes. The first two are the only character of bos and eos. BEGIN and END frame
# the characters of every token.
TEXT_BEGIN = 256
TEXT_END = 257
BEGIN = 258
END = 259
PAD = 260
NUM_CHARACTERS = 261


def spell(text: bytes, length: int) -> np.ndarray:
    """Return int32[length]: BEGIN, the first length - 2 bytes of `text`, END, then PAD."""
    return _framed(list(text[: length - 2]), length)


def character_table(tokenizer: Tokenizer, length: int) -> np.ndarray:
    """Return int32[V, length], the characters of each id; bos and eos have one of their own, pad has none."""
    vocab = tokenizer.vocab
    table = np.stack([spell(tokenizer.piece_bytes(index), length) for index in range(vocab.size)])
    table[vocab.bos] = _framed([TEXT_BEGIN], length)
    table[vocab.eos] = _framed([TEXT_END], length)
    table[vocab.pad] = PAD
    return table


def _framed(body: list[int], length: int) -> np.ndarray:
    ids = np.full(length, PAD, np.int32)
    ids[: len(body) + 2] = [BEGIN, *body, END]
    return ids
