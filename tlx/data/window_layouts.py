"""Windows of a token cache by index: what one row of a batch is cut from.

Every layout gives each token of the split to exactly one window of an epoch (pairs give what fits);
beyond that, windows repeat the `overlap` that an objective reads (the tokens before a window, or in a
stream those behind), and show an `other` piece of text where it reads one.
Fetching one costs a few numpy calls on a slice of the mapped file, whatever the size of the split.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.cache import TokenCache
from tlx.data.packing import best_fit_plan
from tlx.data.window import Window, WindowSpec, padding_window, reversed_window

TokenRange = tuple[int, int]  # start and size in the cache's tokens


class WindowLayout(Protocol):
    """Windows 0..num_windows-1 of one token cache, each `length` tokens."""

    cache: TokenCache
    num_windows: int

    def window(self, index: int, origin: int) -> Window:
        """The window; `origin` is the document start at which this epoch's text begins, where it is cut
        without regard to documents."""
        ...

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """A second piece of text of up to `length` tokens beside the window."""
        ...


class RandomSecondMixin:
    """Layouts whose other piece of text begins at any token of the split."""

    cache: TokenCache
    _pad: int

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Tokens from a uniformly random place, `length` of them where there are so many."""
        size = min(length, self.cache.num_tokens)
        start = int(rng.integers(self.cache.num_tokens - size + 1))
        return _assemble(self.cache, [(start, size)], length, 0, self._pad)


class Packed(RandomSecondMixin):
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


class Stream(RandomSecondMixin):
    """Documents in a row; window i + 1 begins `length - overlap` tokens after window i."""

    def __init__(self, cache: TokenCache, length: int, overlap: int, pad: int):
        self.cache, self._length, self._pad = cache, length, pad
        self._stride = length - overlap
        self.num_windows = max(-(-(cache.num_tokens - overlap) // self._stride), 1)

    def window(self, index: int, origin: int, backwards: bool = False) -> Window:
        """Tokens index * stride .. index * stride + length, counted from `origin`; `backwards` those of the
        reversed text, which begins at the token before `origin`."""
        total = self.cache.num_tokens
        start = index * self._stride
        stop = min(start + self._length, total)
        if backwards:
            runs = _rotated(total - stop, total - start, origin, total)
            return reversed_window(_assemble(self.cache, runs, self._length, 0, self._pad))
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
        document = self._document(index)
        piece = index - (int(self._ends[document - 1]) if document else 0)
        start = int(self.cache.offsets[document]) + piece * self._stride
        size = min(self._stride, int(self.cache.offsets[document + 1]) - start)
        return _with_context(self.cache, [(start, size)], self._length, self._overlap, self._pad)

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Another document from a random token on (the same one where there is no other)."""
        document, count = self._document(index), self.cache.num_documents
        if count > 1:
            document = (document + 1 + int(rng.integers(count - 1))) % count
        start, stop = map(int, self.cache.offsets[document : document + 2])
        start += int(rng.integers(stop - start))
        return _assemble(self.cache, [(start, min(stop - start, length))], length, 0, self._pad)

    def _document(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, "right"))


class Pairs:
    """A text and its translation a window: documents 2i and 2i + 1 of the cache, their beginnings where
    they are longer than what is read."""

    def __init__(self, cache: TokenCache, length: int, overlap: int, pad: int):
        if not cache.meta.get("parallel"):
            raise ConfigError(
                f"the objective reads pairs of texts, but {cache.meta['source']} has none; name the field "
                "of the translation in target_column"
            )
        self.cache, self._length, self._pad = cache, length, pad
        self.num_windows = cache.num_documents // 2

    def window(self, index: int, origin: int) -> Window:
        """The source text; `origin` does not matter."""
        return self._text(2 * index, self._length)

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Its translation."""
        return self._text(2 * index + 1, length)

    def _text(self, document: int, length: int) -> Window:
        start, stop = map(int, self.cache.offsets[document : document + 2])
        return _assemble(self.cache, [(start, min(stop - start, length))], length, 0, self._pad)


class Turns:
    """A turn of a conversation a window: in front of it the last tokens of what was said before, beside it
    the beginning of the turn, which ends with sep, or with the conversation."""

    def __init__(self, cache: TokenCache, length: int, overlap: int, pad: int):
        if not len(cache.replies):
            raise ConfigError(
                f"the objective reads conversations, but {cache.meta['source']} has none; name the field "
                "with the list of turns in data.text.turns_column, or use .tsv files"
            )
        self.cache, self._length, self._pad = cache, length, pad
        self.num_windows = len(cache.replies)

    def window(self, index: int, origin: int) -> Window:
        """What was said before; `origin` does not matter."""
        start = int(self.cache.replies[index])
        size = min(start - int(self.cache.offsets[self._document(start)]), self._length)
        return _assemble(self.cache, [(start - size, size)], self._length, 0, self._pad)

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """The turn."""
        start = int(self.cache.replies[index])
        stop = int(self.cache.offsets[self._document(start) + 1])
        if index + 1 < self.num_windows:
            stop = min(stop, int(self.cache.replies[index + 1]))
        return _assemble(self.cache, [(start, min(stop - start, length))], length, 0, self._pad)

    def _document(self, place: int) -> int:
        return int(np.searchsorted(self.cache.offsets, place, "right")) - 1


class Unpaired(Packed):
    """Packed text beside which an objective finds no translation."""

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Nothing."""
        return padding_window(WindowSpec(length), self._pad)


class BestFit(RandomSecondMixin):
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


def check_window_spec(reads: WindowSpec, packing: str) -> None:
    """ConfigError where what an objective reads makes no sense, or not with this packing."""
    if not 0 <= reads.overlap < reads.length:
        raise ConfigError(
            f"an objective reads windows of {reads.length} tokens that overlap by {reads.overlap}"
        )
    if reads.both_ways and reads.layout != "stream":
        raise ConfigError(f"an objective reads the layout {reads.layout!r} both ways; only a stream can be")
    if reads.layout in ("parallel", "packed_or_parallel", "turns") and not reads.second_length:
        what = "an answer" if reads.layout == "turns" else "a translation"
        raise ConfigError(f"an objective reads the layout {reads.layout!r} without room for {what}")
    if reads.layout not in _LAYOUTS:
        raise ConfigError(one_of("layout that an objective reads", reads.layout, _LAYOUTS))
    if reads.layout != "packed" and packing != "concat":
        raise ConfigError(
            f"data.packing = {packing!r} cannot be had with this objective, which reads the layout "
            f"{reads.layout!r}; use 'concat'"
        )


def make_layout(cache: TokenCache, reads: WindowSpec, packing: str, pad: int) -> WindowLayout:
    """The layout that an objective reads; ConfigError as `check_window_spec`."""
    check_window_spec(reads, packing)
    parallel = bool(cache.meta.get("parallel"))
    if parallel and "parallel" not in reads.layout and reads.layout != "turns":
        raise ConfigError(
            f"{cache.meta['source']} has pairs of texts (target_column), which this objective does not read"
        )
    kind = BestFit if packing == "best_fit" else _LAYOUTS[reads.layout]
    if reads.layout == "packed_or_parallel":
        kind = Pairs if parallel else Unpaired
    if reads.layout == "turns" and parallel:
        kind = Pairs  # conversations of two turns
    return kind(cache, reads.length, reads.overlap, pad)


_LAYOUTS: dict[str, type[WindowLayout]] = {
    "packed": Packed,
    "stream": Stream,
    "document": Documents,
    "parallel": Pairs,
    "packed_or_parallel": Unpaired,
    "turns": Turns,
}


def _rotated(start: int, stop: int, origin: int, total: int) -> list[TokenRange]:
    """Runs of the tokens start..stop of a text of `total` tokens that is read from `origin` around."""
    before_end = total - origin
    if stop <= before_end:
        return [(origin + start, stop - start)]
    if start >= before_end:
        return [(start - before_end, stop - start)]
    return [(origin + start, before_end - start), (0, stop - before_end)]


def _with_context(cache: TokenCache, runs: list[TokenRange], length: int, overlap: int, pad: int) -> Window:
    """The runs behind `overlap` places: tokens of the first run's document before it, or padding."""
    if not overlap:
        return _assemble(cache, runs, length, 0, pad)
    start, size = runs[0]
    document_start = int(cache.offsets[np.searchsorted(cache.offsets, start, "right") - 1])
    context = min(overlap, start - document_start)
    return _assemble(cache, [(start - context, size + context), *runs[1:]], length, overlap - context, pad)


def _assemble(cache: TokenCache, runs: Sequence[TokenRange], length: int, lead: int, pad: int) -> Window:
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
