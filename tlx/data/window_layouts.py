"""Layouts: random access to the windows of a split, one window per row of a batch.

Every layout puts each token of the split in exactly one window of an epoch (pairs are truncated to what
fits). Windows additionally repeat `overlap` tokens of their neighbour, and come with a second piece of text
where an objective reads one. Reading a window costs a few numpy calls on a slice of the mapped file,
independent of the size of the split.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.document_windows import count_windows
from tlx.data.packing import best_fit_plan
from tlx.data.token_split import TokenSplit
from tlx.data.window import Window, WindowSpec, padding_window, reversed_window

TokenRange = tuple[int, int]  # first token in the split, and number of tokens


class WindowLayout(Protocol):
    """Windows 0..num_windows - 1 of one split, all of the same length."""

    cache: TokenSplit
    """The tokens."""
    num_windows: int
    """Windows of an epoch."""
    pad: int
    """Id of padding."""

    def window(self, index: int, origin: int) -> Window:
        """Return a window.

        `origin` is the token at which this epoch's text begins, always the start of a document; only layouts
        that cut concatenated documents use it.
        """
        ...

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Return the second piece of text that goes with a window.

        Args:
            index: Index of the window.
            length: Tokens of the second window; shorter text is padded.
            rng: Chooses the text where the choice is random.

        Returns:
            The second window.
        """
        ...


class RandomSecondMixin:
    """Layouts whose second piece of text begins at a random token of the split."""

    cache: TokenSplit
    """The tokens."""
    pad: int
    """Id of padding."""

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Return consecutive tokens from a uniformly random position.

        Args:
            index: Index of the window.
            length: Tokens of the second window.
            rng: Chooses the position.

        Returns:
            The second window.
        """
        size = min(length, self.cache.num_tokens)
        start = int(rng.integers(self.cache.num_tokens - size + 1))
        return _assemble(self.cache, [(start, size)], length, 0, self.pad)


class Packed(RandomSecondMixin):
    """Concatenated documents, cut every `length - overlap` tokens.

    A window begins with the `overlap` tokens before its own tokens (the first window, with padding).
    """

    def __init__(self, cache: TokenSplit, length: int, overlap: int, pad: int):
        self.cache = cache
        self.pad = pad
        self._length = length
        self._overlap = overlap
        self._stride = length - overlap
        self.num_windows = -(-cache.num_tokens // self._stride)

    def window(self, index: int, origin: int) -> Window:
        """Return tokens index * stride - overlap to (index + 1) * stride, counted from `origin`."""
        start = index * self._stride - self._overlap
        stop = min(start + self._length, self.cache.num_tokens)
        runs = _rotated(max(start, 0), stop, origin, self.cache.num_tokens)
        return _assemble(self.cache, runs, self._length, max(-start, 0), self.pad)


class Stream(RandomSecondMixin):
    """Concatenated documents; window i + 1 begins `length - overlap` tokens after window i."""

    def __init__(self, cache: TokenSplit, length: int, overlap: int, pad: int):
        self.cache = cache
        self.pad = pad
        self._length = length
        self._stride = length - overlap
        self.num_windows = max(-(-(cache.num_tokens - overlap) // self._stride), 1)

    def window(self, index: int, origin: int, backwards: bool = False) -> Window:
        """Return tokens index * stride to index * stride + length, counted from `origin`.

        Args:
            index: Index of the window.
            origin: Token of the split at which the text begins.
            backwards: Whether to read the reversed text, which begins at the token before `origin`.

        Returns:
            The window.
        """
        total = self.cache.num_tokens
        start = index * self._stride
        stop = min(start + self._length, total)
        if backwards:
            runs = _rotated(total - stop, total - start, origin, total)
            return reversed_window(_assemble(self.cache, runs, self._length, 0, self.pad))
        runs = _rotated(start, stop, origin, total)
        return _assemble(self.cache, runs, self._length, 0, self.pad)


class Documents:
    """One piece of one document per window, after the `overlap` tokens before it (padding at the beginning)."""

    def __init__(self, cache: TokenSplit, length: int, overlap: int, pad: int):
        self.cache = cache
        self.pad = pad
        self._length = length
        self._overlap = overlap
        self._stride = length - overlap
        self._counts = count_windows(cache, self._stride)
        self.num_windows = self._counts.num_windows

    def window(self, index: int, origin: int) -> Window:
        """Return a piece of a document; `origin` is not used."""
        document, piece = self._counts.find(self.cache, index)
        start = document.start + piece * self._stride
        size = min(self._stride, document.stop - start)
        return _with_context(self.cache, [(start, size)], self._length, self._overlap, self.pad)

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Return another document from a random token on (the same document where it is the only one).

        Args:
            index: Index of the window.
            length: Tokens of the second window.
            rng: Chooses the document and the token.

        Returns:
            The second window.
        """
        document = self._counts.find(self.cache, index)[0].index
        count = self.cache.num_documents
        if count > 1:
            # Uniform over all others, without drawing again where the same one comes.
            document = (document + 1 + int(rng.integers(count - 1))) % count
        start, stop = map(int, self.cache.read_offsets(document, document + 2))
        start += int(rng.integers(stop - start))
        return _assemble(self.cache, [(start, min(stop - start, length))], length, 0, self.pad)


class Pairs:
    """One (text, translation) pair per window, each truncated to its length: documents 2i and 2i + 1."""

    def __init__(self, cache: TokenSplit, length: int, overlap: int, pad: int):
        if not cache.meta.get("parallel"):
            raise ConfigError(
                f"the objective reads pairs of texts, but {cache.meta['source']} has none; name the field "
                "of the translation in target_column"
            )
        self.cache = cache
        self.pad = pad
        self._length = length
        self.num_windows = cache.num_documents // 2

    def window(self, index: int, origin: int) -> Window:
        """Return the source text; `origin` is not used."""
        return self._text(2 * index, self._length)

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Return the translation.

        Args:
            index: Index of the window.
            length: Tokens of the second window.
            rng: Not used.

        Returns:
            The second window.
        """
        return self._text(2 * index + 1, length)

    def _text(self, document: int, length: int) -> Window:
        start, stop = map(int, self.cache.read_offsets(document, document + 2))
        return _assemble(self.cache, [(start, min(stop - start, length))], length, 0, self.pad)


class Turns:
    """One turn of a conversation per window: the end of the dialogue before it, and as second text the turn.

    The turn includes the separator after it, or ends with the conversation; its end is truncated.
    """

    def __init__(self, cache: TokenSplit, length: int, overlap: int, pad: int):
        if not cache.num_replies:
            raise ConfigError(
                f"the objective reads conversations, but {cache.meta['source']} has none; name the field "
                "with the list of turns in data.text.turns_column, or use .tsv files"
            )
        self.cache = cache
        self.pad = pad
        self._length = length
        self.num_windows = cache.num_replies

    def window(self, index: int, origin: int) -> Window:
        """Return the last tokens before the turn; `origin` is not used."""
        (start,) = map(int, self.cache.read_replies(index, index + 1))
        size = min(start - self.cache.find_document(start).start, self._length)
        return _assemble(self.cache, [(start - size, size)], self._length, 0, self.pad)

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Return the turn.

        Args:
            index: Index of the window.
            length: Tokens of the second window.
            rng: Not used.

        Returns:
            The second window.
        """
        # The last turn has no next one.
        start, *following = map(int, self.cache.read_replies(index, min(index + 2, self.num_windows)))
        stop = min([self.cache.find_document(start).stop, *following])
        return _assemble(self.cache, [(start, min(stop - start, length))], length, 0, self.pad)


class Unpaired(Packed):
    """Packed text without translations, for objectives that read pairs where there are some."""

    def second_window(self, index: int, length: int, rng: np.random.Generator) -> Window:
        """Return padding.

        Args:
            index: Index of the window.
            length: Tokens of the second window.
            rng: Not used.

        Returns:
            The second window.
        """
        return padding_window(WindowSpec(length), self.pad)


class BestFit(RandomSecondMixin):
    """As many whole documents as fit, by a best-fit plan.

    Before them stand the `overlap` tokens that precede the first piece in its document, or padding.
    """

    def __init__(self, cache: TokenSplit, length: int, overlap: int, pad: int):
        self.cache = cache
        self.pad = pad
        self._length = length
        self._overlap = overlap
        self._plan = best_fit_plan(cache, length - overlap)
        self.num_windows = len(self._plan.ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return BestFit, (self.cache, self._length, self._overlap, self.pad)

    def window(self, index: int, origin: int) -> Window:
        """Return the pieces that the plan assigns to the window; `origin` is not used."""
        plan = self._plan
        first = int(plan.ends[index - 1]) if index else 0
        pieces = slice(first, int(plan.ends[index]))
        runs = list(zip(plan.starts[pieces].tolist(), plan.sizes[pieces].tolist(), strict=True))
        return _with_context(self.cache, runs, self._length, self._overlap, self.pad)


def check_window_spec(reads: WindowSpec, packing: str) -> None:
    """Raise ConfigError where a window spec is inconsistent, or not possible with this packing."""
    if not 0 <= reads.overlap < reads.length:
        raise ConfigError(
            f"an objective reads windows of {reads.length} tokens that overlap by {reads.overlap}"
        )
    if reads.both_ways and reads.layout != "stream":
        raise ConfigError(f"an objective reads the layout {reads.layout!r} both ways; only a stream can be")
    if reads.layout in ("parallel", "packed_or_parallel", "turns") and not reads.second_length:
        second = "an answer" if reads.layout == "turns" else "a translation"
        raise ConfigError(f"an objective reads the layout {reads.layout!r} without room for {second}")
    if reads.layout not in _LAYOUTS:
        raise ConfigError(one_of("layout that an objective reads", reads.layout, _LAYOUTS))
    if reads.layout != "packed" and packing != "concat":
        raise ConfigError(
            f"data.packing = {packing!r} cannot be had with this objective, which reads the layout "
            f"{reads.layout!r}; use 'concat'"
        )


def make_layout(cache: TokenSplit, reads: WindowSpec, packing: str, pad: int) -> WindowLayout:
    """Build the layout of a split that a window spec asks for.

    Args:
        cache: The tokens.
        reads: Specification of the windows.
        packing: "concat" or "best_fit", as data.packing.
        pad: Id of padding.

    Returns:
        The layout.

    Raises:
        ConfigError: As `check_window_spec`, or the cache has no pairs or turns that the layout needs.
    """
    check_window_spec(reads, packing)
    parallel = bool(cache.meta.get("parallel"))
    if parallel and "parallel" not in reads.layout and reads.layout != "turns":
        raise ConfigError(
            f"{cache.meta['source']} has pairs of texts (target_column), which this objective does not read"
        )
    layout = BestFit if packing == "best_fit" else _LAYOUTS[reads.layout]
    if reads.layout == "packed_or_parallel":
        layout = Pairs if parallel else Unpaired
    if reads.layout == "turns" and parallel:
        layout = Pairs  # a pair is a conversation of two turns
    return layout(cache, reads.length, reads.overlap, pad)


# Constructors (cache, length, overlap, pad) by the name of a layout.
_LAYOUTS: dict[str, Callable[[TokenSplit, int, int, int], WindowLayout]] = {
    "packed": Packed,
    "stream": Stream,
    "document": Documents,
    "parallel": Pairs,
    "packed_or_parallel": Unpaired,
    "turns": Turns,
}


def _rotated(start: int, stop: int, origin: int, total: int) -> list[TokenRange]:
    """Token ranges of start..stop in a text of `total` tokens that begins at `origin` and wraps around."""
    # Lanes of a stream begin at different tokens; each reads on past the end of the text to its own
    # beginning.
    before_end = total - origin
    if stop <= before_end:
        return [(origin + start, stop - start)]
    if start >= before_end:
        return [(start - before_end, stop - start)]
    return [(origin + start, before_end - start), (0, stop - before_end)]


def _with_context(cache: TokenSplit, runs: list[TokenRange], length: int, overlap: int, pad: int) -> Window:
    """Assemble runs after `overlap` positions, which hold the tokens before the first run in its document."""
    if not overlap:
        return _assemble(cache, runs, length, 0, pad)
    start, size = runs[0]
    context = min(overlap, start - cache.find_document(start).start)
    return _assemble(cache, [(start - context, size + context), *runs[1:]], length, overlap - context, pad)


def _assemble(cache: TokenSplit, runs: Sequence[TokenRange], length: int, lead: int, pad: int) -> Window:
    """Concatenate runs to a window, with `lead` positions of padding before and the remaining ones after."""
    tokens = np.full(length, pad, np.int32)
    begins = np.zeros(length, np.int32)  # 1 where a document's piece begins
    at = lead
    num_pieces = 0
    for start, size in runs:
        tokens[at : at + size] = cache.read_tokens(start, start + size)
        begins[at] = 1
        # A run may hold several documents: each beginning inside it starts a segment.
        inside = cache.starts_between(start, start + size)
        begins[inside - (start - at)] = 1
        num_pieces += 1 + len(inside)
        at += size
    index = np.arange(length, dtype=np.int32)
    if num_pieces == 1:
        # The usual window of long documents, in a third of the time.
        segments, positions = np.zeros((2, length), np.int32)
        segments[lead:at] = 1
        positions[lead:at] = index[: at - lead]
    else:
        # Computed for the whole window at once: a loop over documents would take longer than the example.
        segments = begins.cumsum(dtype=np.int32)
        positions = index - np.maximum.accumulate(index * begins)
        segments[at:] = 0
        positions[at:] = 0
        positions[:lead] = 0
    # Checked here, since an id outside the vocabulary would be clipped silently on the device.
    if tokens.max() >= cache.meta["vocab_size"]:
        raise DataError(_outside(cache, tokens))
    return Window(tokens, segments, positions)


def _outside(cache: TokenSplit, tokens: np.ndarray) -> str:
    size = cache.meta["vocab_size"]
    return (
        f"{cache.where} of {cache.meta['source']} is damaged: it holds token {int(tokens.max())}, outside its "
        f"vocabulary of {size} ids; delete it to make it again"
    )
