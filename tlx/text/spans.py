"""Character spans of the ids of a text."""

import unicodedata

import numpy as np

from tlx.base.errors import DataError
from tlx.text.tokenizer import Tokenizer


def encode_with_spans(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Encode a text and return the character span of each id.

    An id that is only part of a character spans the whole character. Tokenizers that change the text (lower
    case, accents) have a method of this name; the ids of all others stand for the bytes of the text in order.

    Returns:
        Ids int32[T], and spans int32[T, 2]: the first character of each id and the one after its last.

    Raises:
        DataError: The ids do not stand for the bytes of the text.
    """
    method = getattr(tokenizer, "encode_with_spans", None)
    if method is not None:
        return method(text)
    (ids,) = tokenizer.encode_batch([text])
    sizes = tokenizer.num_bytes[ids]
    encoded = text.encode()
    if int(sizes.sum()) != len(encoded):
        raise DataError(f"the tokenizer's ids do not stand for the bytes of {text[:40]!r}")
    # In UTF-8 every byte of a character but its first begins with the bits 10.
    begins_character = (np.frombuffer(encoded, np.uint8) & 0xC0) != 0x80
    # The character that each byte belongs to, and one beyond the last.
    character = np.concatenate([np.cumsum(begins_character) - 1, [len(text)]])
    ends = np.cumsum(sizes)
    starts = ends - sizes
    last = np.where(sizes > 0, character[np.maximum(ends - 1, 0)] + 1, character[starts])
    return ids, np.stack([character[starts], last], axis=1).astype(np.int32)


def len_of_marks(text: str) -> int:
    """Return how many characters at the beginning of a text belong to the character before it.

    These are combining marks, the vowels and final consonants of decomposed Hangul, and the voicing marks of
    half-width Katakana: what a tokenizer that composes characters (NFC, NFKC) joins to the one before.
    """
    return next((index for index, letter in enumerate(text) if not _is_mark(letter)), len(text))


def _is_mark(letter: str) -> bool:
    hangul = "\u1160" <= letter <= "\u11ff" or "\ud7b0" <= letter <= "\ud7fb"
    return hangul or letter in "\uff9e\uff9f" or unicodedata.category(letter).startswith("M")


def overlapping(spans: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Return the range of ids that share a character with start..stop.

    Args:
        spans: Character spans of the ids, int32[T, 2].
        start: First character.
        stop: The character after the last.

    Returns:
        The index of the first id and the one after the last; both 0 where there is none.
    """
    touching = np.flatnonzero((spans[:, 1] > start) & (spans[:, 0] < stop) & (spans[:, 1] > spans[:, 0]))
    if not len(touching):
        return 0, 0
    return int(touching[0]), int(touching[-1]) + 1
