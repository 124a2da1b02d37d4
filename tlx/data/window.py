"""What flows from the data to an objective: a fixed-length piece of text, and which kind of piece."""

from typing import Literal, NamedTuple

import numpy as np

from tlx.text.vocabulary import Vocabulary

LayoutName = Literal["packed", "stream", "document", "parallel", "packed_or_parallel", "turns"]


class Window(NamedTuple):
    """A piece of text of n tokens, and a second one where an objective asks for it (second_length).

    `segments` count the documents within the window from 1 and are 0 on padding; `positions` restart at
    0 in each document's piece (0 on padding); documents end with eos where the data config says so.
    `language` is a number in the data config's `languages`. `backwards`: the text is in reverse.
    """

    tokens: np.ndarray  # int32 [n]
    segments: np.ndarray  # int32 [n]
    positions: np.ndarray  # int32 [n]
    second: "Window | None" = None  # a translation, or text from elsewhere
    language: int = 0
    backwards: bool = False


class WindowSpec(NamedTuple):
    """What an objective reads for one row of a batch: windows of `length` tokens in a `layout`.

    packed: windows in shuffled order, cut from concatenated documents (or filled with whole ones);
    stream: row b of batch k+1 continues row b of batch k, `length - overlap` tokens further on;
    document: one document's piece per window, padded;
    parallel: a text of a pair per window, cut or padded, its translation in `other`;
    packed_or_parallel: that where a source has pairs; else as packed, and `other` is empty;
    turns: what was said before a turn of a conversation, its end where it is longer, and in `other` that turn
    with what separates it from the next one, or with its ratings (turns.py); of a pair, its second text.

    other: tokens of a second piece of text. But for pairs and turns it is from a random place: in the layout
    document of another document, else of the whole text. copies: 0 draws what is random anew each epoch;
    n makes n versions of the data and repeats them, epoch e being version e mod n. both_ways: half of the
    rows of a stream read the text backwards, from its end.
    """

    length: int
    layout: LayoutName = "packed"
    overlap: int = 0
    second_length: int = 0
    copies: int = 0
    both_ways: bool = False


def padding_window(reads: WindowSpec, pad: int) -> Window:
    """A window without text."""
    zeros = np.zeros(reads.length, np.int32)
    other = padding_window(WindowSpec(reads.second_length), pad) if reads.second_length else None
    return Window(np.full(reads.length, pad, np.int32), zeros, zeros.copy(), other)


def reversed_window(window: Window) -> Window:
    """The same text from its end to its beginning, padding behind it."""
    size = int(np.count_nonzero(window.segments))
    tokens, segments, positions = (array.copy() for array in window[:3])
    tokens[:size] = window.tokens[:size][::-1]
    segments[:size] = window.segments[size - 1 : size] + 1 - window.segments[:size][::-1]
    place = np.arange(size)
    begins = np.diff(segments[:size], prepend=0) > 0
    positions[:size] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return window._replace(tokens=tokens, segments=segments, positions=positions, backwards=True)


def dummy_window(reads: WindowSpec, vocab: Vocabulary) -> Window:
    """A window full of made-up text, for the shapes of what an objective makes of it."""
    text, count = np.flatnonzero(~vocab.special).astype(np.int32), np.arange(reads.length, dtype=np.int32)
    other = dummy_window(WindowSpec(reads.second_length), vocab) if reads.second_length else None
    return Window(np.resize(text, reads.length), np.ones(reads.length, np.int32), count, other)
