"""What flows from the data to an objective: a fixed-length piece of text, and which kind of piece."""

from typing import Literal, NamedTuple

import numpy as np

Layout = Literal["packed", "stream", "document"]


class Window(NamedTuple):
    """A piece of text of n tokens.

    `segments` count the documents within the window from 1 and are 0 on padding; `positions` restart at
    0 in each document's piece (0 on padding); documents end with eos where the data config says so.
    """

    tokens: np.ndarray  # int32 [n]
    segments: np.ndarray  # int32 [n]
    positions: np.ndarray  # int32 [n]


class Reads(NamedTuple):
    """What an objective reads for one row of a batch: windows of `length` tokens in a `layout`.

    packed: windows in shuffled order, cut from concatenated documents (or filled with whole ones);
    stream: row b of batch k+1 continues row b of batch k, `length - overlap` tokens further on;
    document: one document's piece per window, padded.
    """

    length: int
    layout: Layout = "packed"
    overlap: int = 0
