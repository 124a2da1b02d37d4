"""Windows of a token cache by index: what one row of a batch is cut from.

Every layout gives each token of the split to exactly one window of an epoch; beyond that, windows repeat
the `overlap` that an objective reads (the tokens before a window, or in a stream those behind).
Fetching one costs a few numpy calls on a slice of the mapped file, whatever the size of the split.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.cache import TokenCache
from tlx.data.packing import best_fit_plan
from tlx.text import Reads, Window

Run = tuple[int, int]  # start and size in the cache's tokens


class Layout(Protocol):
    """Windows 0..num_windows-1 of one token cache, each `length` tokens."""

    cache: TokenCache
    num_windows: int

    def window(self, index: int, origin: int) -> Window:
        """The window; `origin` is the document start at which this epoch's text begins, where it is cut
        without regard to documents."""
        ...


class Concat:
    """Documents in a row, cut every `length - overlap` tokens; before its own tokens, a window shows the
    `overlap` tokens that precede them (padding before the first window)."""

    def __init__(self, cache: TokenCache, length: int, overlap: int, pad: int):
        self.cache, self._length, self._overlap, self._pad = cache, length, overlap, pad
        self._stride = length - overlap
        self.num_windows = -(-cache.num_tokens // self._stride)

    def window(self, index: int, origin: int) -> Window:
        """Tokens index * stride - overlap .. (index + 1) * stride, counted from `origin`."""
        start = index * self._stride - self._overlap
        stop = min(start + self._length, self.cache.num_tokens)
        runs = _rotated(max(start, 0), stop, origin, self.cache.num_tokens)
        return _assemble(self.cache, runs, self._length, max(-start, 0), self._pad)


class Stream:
    """Documents in a row; window i + 1 begins `length - overlap` tokens after window i."""

    def __init__(self, cache: TokenCache, length: int, overlap: int, pad: int):
        self.cache, self._length, self._pad = cache, length, pad
        self._stride = length - overlap
        self.num_windows = max(-(-(cache.num_tokens - overlap) // self._stride), 1)

    def window(self, index: int, origin: int) -> Window:
        """Tokens index * stride .. index * stride + length, counted from `origin`."""
        start = index * self._stride
        stop = min(start + self._length, self.cache.num_tokens)
        runs = _rotated(start, stop, origin, self.cache.num_tokens)
        return _assemble(self.cache, runs, self._length, 0, self._pad)


class Documents:
    """One piece of one document a window; the `overlap` tokens before it, or padding where it begins."""

    def __init__(self, cache: TokenCache, length: int, overlap: int, pad: int):
        self.cache, self._length, self._overlap, self._pad = cache, length, overlap, pad
        self._stride = length - overlap
        self._ends = np.cumsum(-(-np.diff(cache.offsets) // self._stride))
        self.num_windows = int(self._ends[-1])

    def window(self, index: int, origin: int) -> Window:
        """The piece; `origin` does not matter."""
        document = int(np.searchsorted(self._ends, index, "right"))
        piece = index - (int(self._ends[document - 1]) if document else 0)
        start = int(self.cache.offsets[document]) + piece * self._stride
        size = min(self._stride, int(self.cache.offsets[document + 1]) - start)
        return _with_context(self.cache, [(start, size)], self._length, self._overlap, self._pad)


class BestFit:
    """Whole documents, as many as fit; the `overlap` tokens before the first, where it is the rest of one
    that was too long, else padding."""

    def __init__(self, cache: TokenCache, length: int, overlap: int, pad: int):
        self.cache, self._length, self._overlap, self._pad = cache, length, overlap, pad
        self._plan = best_fit_plan(cache, length - overlap)
        self.num_windows = len(self._plan.ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return BestFit, (self.cache, self._length, self._overlap, self._pad)

    def window(self, index: int, origin: int) -> Window:
        """The pieces that the plan puts together; `origin` does not matter."""
        plan = self._plan
        pieces = slice(int(plan.ends[index - 1]) if index else 0, int(plan.ends[index]))
        runs = list(zip(plan.starts[pieces].tolist(), plan.sizes[pieces].tolist(), strict=True))
        return _with_context(self.cache, runs, self._length, self._overlap, self._pad)


def check_reads(reads: Reads, packing: str) -> None:
    """ConfigError where what an objective reads makes no sense, or not with this packing."""
    if not 0 <= reads.overlap < reads.length:
        raise ConfigError(
            f"an objective reads windows of {reads.length} tokens that overlap by {reads.overlap}"
        )
    if reads.layout not in _LAYOUTS:
        raise ConfigError(one_of("layout that an objective reads", reads.layout, _LAYOUTS))
    if reads.layout != "packed" and packing != "concat":
        raise ConfigError(
            f"data.packing = {packing!r} cannot be had with this objective, which reads the layout "
            f"{reads.layout!r}; use 'concat'"
        )


def make_layout(cache: TokenCache, reads: Reads, packing: str, pad: int) -> Layout:
    """The layout that an objective reads; ConfigError as `check_reads`."""
    check_reads(reads, packing)
    kind = BestFit if packing == "best_fit" else _LAYOUTS[reads.layout]
    return kind(cache, reads.length, reads.overlap, pad)


_LAYOUTS: dict[str, type[Layout]] = {"packed": Concat, "stream": Stream, "document": Documents}


def padding_window(length: int, pad: int) -> Window:
    """A window without text."""
    zeros = np.zeros(length, np.int32)
    return Window(np.full(length, pad, np.int32), zeros, zeros.copy())


def _rotated(start: int, stop: int, origin: int, total: int) -> list[Run]:
    """Runs of the tokens start..stop of a text of `total` tokens that is read from `origin` around."""
    before_end = total - origin
    if stop <= before_end:
        return [(origin + start, stop - start)]
    if start >= before_end:
        return [(start - before_end, stop - start)]
    return [(origin + start, before_end - start), (0, stop - before_end)]


def _with_context(cache: TokenCache, runs: list[Run], length: int, overlap: int, pad: int) -> Window:
    """The runs behind `overlap` places: tokens of the first run's document before it, or padding."""
    if not overlap:
        return _assemble(cache, runs, length, 0, pad)
    start, size = runs[0]
    document_start = int(cache.offsets[np.searchsorted(cache.offsets, start, "right") - 1])
    context = min(overlap, start - document_start)
    return _assemble(cache, [(start - context, size + context), *runs[1:]], length, overlap - context, pad)


def _assemble(cache: TokenCache, runs: Sequence[Run], length: int, lead: int, pad: int) -> Window:
    """The runs one after the other, behind `lead` places of padding and before as many as are left."""
    tokens = np.full(length, pad, np.int32)
    begins = np.zeros(length, np.int32)
    at = lead
    for start, size in runs:
        tokens[at : at + size] = cache.tokens[start : start + size]
        begins[at] = 1
        first, last = np.searchsorted(cache.offsets, (start + 1, start + size))
        begins[cache.offsets[first:last] - (start - at)] = 1
        at += size
    places = np.arange(length, dtype=np.int32)
    segments = np.cumsum(begins, dtype=np.int32)
    positions = places - np.maximum.accumulate(places * begins)
    segments[at:] = 0
    positions[at:] = 0
    positions[:lead] = 0
    if tokens.max() >= cache.meta["vocab_size"]:
        raise DataError(_outside(cache, tokens))
    return Window(tokens, segments, positions)


def _outside(cache: TokenCache, tokens: np.ndarray) -> str:
    size = cache.meta["vocab_size"]
    return (
        f"the token cache {cache.folder} of {cache.meta['source']} is damaged: it holds token "
        f"{int(tokens.max())}, outside its vocabulary of {size} ids; delete the folder to make it again"
    )
