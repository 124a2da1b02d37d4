"""Bytes of text that each id of a corpus stands for, of which bits per byte are made."""

from collections.abc import Sequence

import numpy as np

from tlx.data.token_split import TokenSplit
from tlx.text import Tokenizer
from tlx.text.lossless import is_lossless

_MAX_TOKENS = 2**24  # of each cache, which bounds the reading


def bytes_of_ids(caches: Sequence[TokenSplit], tokenizer: Tokenizer) -> np.ndarray:
    """Return the bytes of text of each id.

    They are the tokenizer's where it is lossless. WordPiece and normalising SentencePiece models drop spaces, accents
    or unknown words: there all ids are scaled by one factor, with which those of the corpus add up to its text.

    Args:
        caches: Tokens of the corpus, of each of its sources.
        tokenizer: Tokenizer of the run.

    Returns:
        int32 or float32 [V].
    """
    if is_lossless(tokenizer):
        return tokenizer.num_bytes
    expected = 0.0
    counted = 0.0
    for cache in caches:
        tokens = cache.read_tokens(0, min(_MAX_TOKENS, cache.num_tokens))
        expected += cache.num_bytes * len(tokens) / cache.num_tokens
        counted += float(tokenizer.num_bytes[tokens].sum(dtype=np.int64))
    return (tokenizer.num_bytes * (expected / max(counted, 1.0))).astype(np.float32)
