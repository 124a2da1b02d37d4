"""Where in a text each of its ids stands."""

import numpy as np

from tlx.base.errors import DataError
from tlx.text.tokenizer import Tokenizer


def encode_with_spans(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32 [n], their first character and the one behind their last int32 [n, 2]).

    An id that is only a part of a character spans it whole. Tokenizers that change the text (lower case,
    accents) say themselves where an id is from; of the others, ids stand for all of its bytes in order.
    """
    own = getattr(tokenizer, "encode_with_spans", None)
    if own is not None:
        return own(text)
    (ids,) = tokenizer.encode_batch([text])
    sizes = tokenizer.num_bytes[ids]
    encoded = text.encode()
    if int(sizes.sum()) != len(encoded):
        raise DataError(f"the tokenizer's ids do not stand for the bytes of {text[:40]!r}")
    first = (np.frombuffer(encoded, np.uint8) & 0xC0) != 0x80  # a character begins here
    number = np.concatenate([np.cumsum(first) - 1, [len(text)]])  # of the character that a byte is in
    ends = np.cumsum(sizes)
    starts = ends - sizes
    last = np.where(sizes > 0, number[np.maximum(ends - 1, 0)] + 1, number[starts])
    return ids, np.stack([number[starts], last], axis=1).astype(np.int32)


def overlapping(spans: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """(first, behind the last) id of those that share a character with start..stop; equal where none does."""
    touching = np.flatnonzero((spans[:, 1] > start) & (spans[:, 0] < stop) & (spans[:, 1] > spans[:, 0]))
    return (int(touching[0]), int(touching[-1]) + 1) if len(touching) else (0, 0)
