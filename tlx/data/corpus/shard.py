"""Shards of tokens: one object each, with the offsets of its documents, read by range.

A shard holds, one after the other and each from a multiple of 8 bytes on:

    tokens   uint16 or uint32 [tokens], documents one after the other
    offsets  uint32 [documents + 1], first token of each document in the shard, and the number of tokens
    replies  uint32 [replies], first token of each turn of a conversation but its first
    blocks   uint32 [blocks + 1], number of documents that begin before each block of 65,536 tokens, and of all

The blocks find the document of a token by two small reads. The counts of a shard are in the corpus's index.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from tlx.data.tokenize import Encoded

BLOCK = 1 << 16  # tokens for which there is an entry of `blocks`
STORED = np.dtype(np.uint32)  # of all that a shard holds but its tokens
_ALIGNMENT = 8

Number = TypeVar("Number", int, np.ndarray)


class ShardCounts(NamedTuple):
    """The sizes of a shard."""

    documents: int
    """Number of documents."""
    tokens: int
    """Number of tokens."""
    replies: int
    """Number of turns of conversations, without the first turn of each."""


class ShardLayouts(NamedTuple):
    """First bytes of the arrays of shards, int64 [shards]; the tokens of each begin at 0."""

    offsets: np.ndarray
    """Of the documents' offsets."""
    replies: np.ndarray
    """Of the turns."""
    blocks: np.ndarray
    """Of the blocks."""
    size: np.ndarray
    """Bytes of the shards."""


def shard_layouts(
    documents: np.ndarray, tokens: np.ndarray, replies: np.ndarray, token_bytes: int
) -> ShardLayouts:
    """Return where the arrays of shards are.

    Args:
        documents: int64 [shards], documents of each shard.
        tokens: int64 [shards], tokens of each.
        replies: int64 [shards], turns of each.
        token_bytes: Bytes of a token, 2 or 4.

    Returns:
        The layouts.
    """
    offsets = _aligned(tokens * token_bytes)
    replies_at = offsets + _aligned((documents + 1) * STORED.itemsize)
    blocks = replies_at + _aligned(replies * STORED.itemsize)
    size = blocks + _aligned((num_blocks(tokens) + 1) * STORED.itemsize)
    return ShardLayouts(offsets, replies_at, blocks, size)


def num_blocks(tokens: Number) -> Number:
    """Return the number of blocks of so many tokens, of which the last may be shorter."""
    return -(-tokens // BLOCK)


def encode_shard(chunks: Sequence[Encoded]) -> tuple[ShardCounts, bytes]:
    """Return the counts and the bytes of a shard that holds the documents of the chunks."""
    lengths = np.concatenate([chunk.lengths for chunk in chunks])
    tokens = np.concatenate([chunk.tokens for chunk in chunks])
    starts = np.cumsum([0, *(len(chunk.tokens) for chunk in chunks)])
    replies = np.concatenate(
        [chunk.replies + start for chunk, start in zip(chunks, starts[:-1], strict=True)]
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # The last entry is the number of documents, which all begin before the end.
    blocks = np.searchsorted(offsets[:-1], np.arange(num_blocks(len(tokens)) + 1) * BLOCK)
    counts = ShardCounts(len(lengths), len(tokens), len(replies))
    arrays = [tokens, *(array.astype(STORED) for array in (offsets, replies, blocks))]
    return counts, b"".join(_padded(array.tobytes()) for array in arrays)


def _aligned(size: Number) -> Number:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")
