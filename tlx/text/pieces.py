"""Ids as byte strings: lossless decoding, and the tables that objectives and evaluation use."""

from collections.abc import Sequence

import numpy as np

from tlx.text.vocabulary import NUM_SENTINELS, SPECIAL_PIECES, Vocabulary

_SENTENCE_ENDS = tuple(end.encode() for end in "\n.!?。！？…।؟")


class Pieces:
    """The bytes that each id stands for (none for special ids), and tables derived from them.

    Attributes:
        bytes: The bytes of each id.
        num_bytes: int32 [V], their number.
        starts_word: bool [V], whether an id begins a word; true for special ids.
        ends_sentence: bool [V], whether an id ends a line or a sentence.
    """

    def __init__(self, vocab: Vocabulary, pieces: Sequence[bytes]):
        self.bytes = list(pieces)
        self.num_bytes = np.array([len(piece) for piece in pieces], np.int32)
        self.starts_word = np.array(
            [special or _starts_word(piece) for special, piece in zip(vocab.special, pieces, strict=True)]
        )
        self.ends_sentence = np.array([piece.rstrip(b" \t").endswith(_SENTENCE_ENDS) for piece in pieces])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode ids; bytes that are not UTF-8 (a truncated character) become U+FFFD."""
        table = self.bytes
        return b"".join([table[index] for index in ids]).decode("utf-8", "replace")

    def decode_named(self, ids: Sequence[int] | np.ndarray, names: dict[int, str]) -> str:
        """Decode ids, with the special ids written as in `names`."""
        table = self.bytes
        pieces = [names[index].encode() if index in names else table[index] for index in map(int, ids)]
        return b"".join(pieces).decode("utf-8", "replace")


def special_names(size: int) -> dict[int, str]:
    """Return {id: name} of the special ids in a vocabulary that tlx makes, of `size` ids."""
    names = dict(enumerate(SPECIAL_PIECES))
    return names | {size - 1 - index: f"<extra_id_{index}>" for index in range(NUM_SENTINELS)}


def _starts_word(piece: bytes) -> bool:
    """Whether a piece begins a word: white space, ASCII punctuation, the first byte of a longer character."""
    if len(piece) == 1 and piece[0] >= 0x80:
        return piece[0] >= 0xC0
    first = piece.decode("utf-8", "replace")[:1]
    return not (first.isalnum() or first == "_")
