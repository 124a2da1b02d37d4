"""Whether ids stand for the bytes of a text one by one, and the bytes of texts where they do not."""

import functools

import numpy as np

from tlx.text.tokenizer import Tokenizer

# Accents, case, spaces at all places, scripts without spaces, compatibility letters: what tokenizers change.
_PROBE = " Éa  the Cat, 3.\n猫 고양이 ﬁ "


@functools.lru_cache(maxsize=8)
def is_lossless(tokenizer: Tokenizer) -> bool:
    """Return whether `num_bytes` of the ids of a text add up to the text's own bytes."""
    ids = tokenizer.encode(_PROBE)
    return int(tokenizer.num_bytes[ids].sum()) == len(_PROBE.encode()) and tokenizer.decode(ids) == _PROBE


def decoded_bytes(tokenizer: Tokenizer, ids: np.ndarray) -> int:
    """Count the bytes of the text that ids stand for, spaces between words included.

    Where the text itself is at hand, `Tokenizer.count_bytes` is exact: decoding shows neither the accents and the
    case that a tokenizer drops, nor the text of an unknown token.
    """
    if is_lossless(tokenizer):
        return int(tokenizer.num_bytes[ids].sum())
    return len(tokenizer.decode(ids).encode())
