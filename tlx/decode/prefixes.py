"""Keys and values of texts that were read before, for prompts that begin in the same way.

The turns of a conversation, and requests with one system message, share the beginnings of their prompts. A row that
begins as a stored text reads the rest of its prompt only. The result is the same as that of reading all of it, to the
rounding of products of other shapes.

A stored beginning is used so far that the rest is as long as one of the compiled lengths: padding between the two
would stand between tokens, where windows and relative positions count.

Shapes: I positions of a stored prefix.
"""

import collections
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.decode.cached import PrefixArrays
from tlx.decode.padding import bucket


class StoredText(NamedTuple):
    """A text with its keys and values, which ends at any entry."""

    key_LSGH: jax.Array
    """Keys."""
    value_LSGH: jax.Array
    """Values."""
    first: int
    """Entry of S that holds the first token."""


class Split(NamedTuple):
    """A prompt as what is stored and what is read."""

    length: int
    """Number of tokens of the prompt that are stored; 0: none."""
    stored: StoredText | None
    """The stored text; None where `length` is 0."""


class PrefixStore:
    """Stored texts, the ones that were used last, up to a number of bytes."""

    def __init__(self, max_bytes: int = 2**30):
        """Create an empty store of at most `max_bytes` of keys and values."""
        self._max_bytes = max_bytes
        self._texts: collections.OrderedDict[tuple[int, ...], StoredText] = collections.OrderedDict()
        self.reused_tokens = 0
        """Number of tokens of prompts that were not read again so far."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all stored keys and values."""
        return sum(text.key_LSGH.nbytes + text.value_LSGH.nbytes for text in self._texts.values())

    def split(self, prompt: Sequence[int]) -> Split:
        """Return how much of a prompt is stored and used."""
        best: tuple[int, ...] = ()
        common = 0
        for tokens in self._texts:
            length = _common(tokens, prompt)
            if length > common:
                common = length
                best = tokens
        # The last token is read always: its logits are those of the first new one.
        rest = bucket(len(prompt) - min(common, len(prompt) - 1))
        if rest >= len(prompt):
            return Split(0, None)
        self._texts.move_to_end(best)
        return Split(len(prompt) - rest, self._texts[best])

    def store(self, tokens: Sequence[int], stored: StoredText) -> None:
        """Store a text, in place of those that are its beginnings; what was used longest ago makes room."""
        text = tuple(tokens)
        for other in [other for other in self._texts if _common(other, text) == len(other)]:
            del self._texts[other]
        self._texts[text] = stored
        while self.num_bytes > self._max_bytes:
            self._texts.popitem(last=False)

    def arrays(self, splits: Sequence[Split], width: int) -> PrefixArrays | None:
        """Return the keys and values of a batch's prefixes.

        Args:
            splits: The prefix of each row.
            width: Entries of each, padded on the left; at least their lengths.

        Returns:
            The arrays; None where no row has a prefix.
        """
        if not width:
            return None
        rows = []
        for split in splits:
            assert split.stored is not None
            rows.append(_placed(split.stored, np.int32(split.length), width=width))
            self.reused_tokens += split.length
        lengths_B1 = np.array([[split.length] for split in splits])
        segments_BI = (np.arange(width) >= width - lengths_B1).astype(np.int32)
        key, value = (jnp.concatenate(arrays, axis=1) for arrays in zip(*rows, strict=True))
        return PrefixArrays(key, value, segments_BI)


def prefix_width(length: int, rest: int, max_length: int | None) -> int:
    """Return the entries of a prefix: its bucket, within the positions of the model.

    Args:
        length: Number of its tokens.
        rest: Number of tokens that are read after it.
        max_length: Number of positions of the model; None: no limit.

    Returns:
        The number of entries; 0 for no prefix.
    """
    if not length:
        return 0
    width = bucket(length)
    return width if max_length is None else max(length, min(width, max_length - rest))


@functools.partial(jax.jit, static_argnames="width")
def _placed(stored: StoredText, length: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Return the first `length` tokens' keys and values [L, 1, I, G, H], padded on the left."""
    # Entries before the first token are padding, whose values do not matter.
    entries_I = stored.first + length - width + jnp.arange(width)
    take = functools.partial(jnp.take, indices=jnp.maximum(entries_I, 0), axis=1, mode="clip")
    return take(stored.key_LSGH)[:, None], take(stored.value_LSGH)[:, None]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts have in common at their beginnings."""
    length = min(len(first), len(second))
    differing = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differing[0]) if len(differing) else length
