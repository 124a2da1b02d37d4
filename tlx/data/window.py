"""Windows: fixed-length pieces of text that flow from the data to an objective, and their specification."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from tlx.text.vocabulary import Vocabulary

LayoutName = Literal["packed", "stream", "document", "parallel", "packed_or_parallel", "turns"]


class Window(NamedTuple):
    """A piece of text of fixed length, and a second one where an objective asks for it (second_length)."""

    tokens: np.ndarray
    """int32 [length]; documents end with eos where the data config says so."""
    segments: np.ndarray
    """int32 [length], index of the document within the window, from 1; 0 on padding."""
    positions: np.ndarray
    """int32 [length], restarting at 0 in each document's piece; 0 on padding."""
    second: "Window | None" = None
    """A second piece of text, such as a translation; None where the spec has no second_length."""
    language: int = 0
    """Index in the `languages` of the data config."""
    backwards: bool = False
    """Whether the text is reversed."""


class WindowSpec(NamedTuple):
    """Specification of the windows that an objective reads, one window per row of a batch."""

    length: int
    """Tokens of a window."""
    layout: LayoutName = "packed"
    """Specification of how windows are cut from documents.

    packed: windows in shuffled order, cut from concatenated documents (or filled with whole documents);
    stream: row b of batch k + 1 continues row b of batch k, `length - overlap` tokens further on;
    document: one piece of one document per window, padded;
    parallel: a text of a pair per window, truncated or padded, and its translation in `second`;
    packed_or_parallel: parallel where a source has pairs; otherwise packed, and `second` is empty;
    turns: the last `length` tokens before a turn of a conversation, and in `second` that turn, with its
    ratings and the separator after it (turns.py); of a pair, its second text.
    """
    overlap: int = 0
    """Tokens that a window shares with its neighbour, from 0 to length - 1."""
    second_length: int = 0
    """Tokens of the second piece of text; 0: none.

    In the layouts packed, stream and document it begins at a random position: in document, that of another
    document; otherwise, of the whole split.
    """
    copies: int = 0
    """0: new random numbers each epoch; n: n versions of the data, epoch e being version e mod n."""
    both_ways: bool = False
    """Whether half of the rows of a stream read the text backwards, from its end."""


def padding_window(reads: WindowSpec, pad: int) -> Window:
    """Return a window that holds only padding."""
    zeros = np.zeros(reads.length, np.int32)
    second = padding_window(WindowSpec(reads.second_length), pad) if reads.second_length else None
    return Window(np.full(reads.length, pad, np.int32), zeros, zeros.copy(), second)


def window_of_texts(
    reads: WindowSpec,
    texts: Sequence[np.ndarray],
    vocab: Vocabulary,
    languages: Sequence[int] = (0, 0),
    lead: Sequence[int] = (),
) -> Window:
    """Return the window of one text, or of a text and a second one.

    Args:
        reads: What an objective reads; a text that is longer is cut.
        texts: int32 ids of one text or of two.
        vocab: The vocabulary, for padding.
        languages: Language of each text.
        lead: End of the document before the first text.

    Returns:
        The window, padded.
    """
    tokens = np.concatenate([np.asarray(lead, np.int32), texts[0]])[: reads.length]
    segments = np.repeat([1, 2], [len(lead), len(texts[0])])[: reads.length] if lead else np.ones(len(tokens))
    positions = np.concatenate([np.arange(len(lead)), np.arange(len(texts[0]))])[: reads.length]
    second = None
    if reads.second_length:
        others = texts[1:] or [np.zeros(0, np.int32)]
        second = window_of_texts(WindowSpec(reads.second_length), others, vocab, languages[1:] or (0,))
    rest = reads.length - len(tokens)
    return Window(
        np.pad(tokens, (0, rest), constant_values=vocab.pad).astype(np.int32),
        np.pad(segments, (0, rest)).astype(np.int32),
        np.pad(positions, (0, rest)).astype(np.int32),
        second,
        languages[0],
    )


def reversed_window(window: Window) -> Window:
    """Return the window with its text reversed; padding stays at the end."""
    size = int(np.count_nonzero(window.segments))
    tokens = window.tokens.copy()
    segments = window.segments.copy()
    positions = window.positions.copy()
    tokens[:size] = window.tokens[:size][::-1]
    # Segments count from 1 in reading order, so the last document becomes number 1.
    segments[:size] = window.segments[size - 1 : size] + 1 - window.segments[:size][::-1]
    index = np.arange(size)
    begins = np.zeros(size, index.dtype)
    begins[1:] = index[1:] * (segments[1:size] != segments[: max(size - 1, 0)])
    positions[:size] = index - np.maximum.accumulate(begins)
    return window._replace(tokens=tokens, segments=segments, positions=positions, backwards=True)


def dummy_window(reads: WindowSpec, vocab: Vocabulary) -> Window:
    """Return a window of made-up text, from which the shapes of an objective's batch are derived."""
    text_ids = np.flatnonzero(~vocab.special).astype(np.int32)
    tokens = np.resize(text_ids, reads.length)
    segments = np.ones(reads.length, np.int32)
    positions = np.arange(reads.length, dtype=np.int32)
    second = dummy_window(WindowSpec(reads.second_length), vocab) if reads.second_length else None
    return Window(tokens, segments, positions, second)
