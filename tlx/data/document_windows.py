"""Windows of documents, a document each: how many there are before any document, without a number for each."""

import pathlib
from typing import NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.data.build_once import build_once
from tlx.data.token_split import DocumentSpan, TokenSplit

# Documents between two counts that are kept: 8 bytes in memory stand for so many documents.
_BLOCK = 1024
# Documents whose offsets are read at a time.
_READ = _BLOCK * 1024
# Documents from which on counts are kept on disk, since all offsets have to be read for them.
_MANY = 1 << 22


class WindowCounts(NamedTuple):
    """Numbers of windows of documents that are cut every `stride` tokens."""

    stride: int
    """Tokens between two windows of a document."""
    before: np.ndarray
    """int64 [blocks + 1], windows before each block of 1,024 documents, and of all."""

    @property
    def num_windows(self) -> int:
        """Windows of all documents."""
        return int(self.before[-1])

    def find(self, split: TokenSplit, index: int) -> tuple[DocumentSpan, int]:
        """Return the document of a window, and the number of the window in it.

        Args:
            split: The documents that were counted.
            index: Index of the window.

        Returns:
            The document, and how many of its windows come before this one.
        """
        block = int(np.searchsorted(self.before, index, "right")) - 1
        first = block * _BLOCK
        offsets = split.read_offsets(first, min(first + _BLOCK, split.num_documents) + 1)
        ends = np.cumsum(-(-np.diff(offsets) // self.stride)) + int(self.before[block])
        document = int(np.searchsorted(ends, index, "right"))
        begin = int(ends[document - 1]) if document else int(self.before[block])
        span = DocumentSpan(first + document, int(offsets[document]), int(offsets[document + 1]))
        return span, index - begin


def count_windows(split: TokenSplit, stride: int) -> WindowCounts:
    """Count the windows of documents that are cut every `stride` tokens; of a large split, once on a machine."""
    if split.num_documents < _MANY:
        return WindowCounts(stride, _count(split, stride))
    return build_once(
        split.plan_folder(f"documents-{stride}"),
        lambda folder: np.save(folder / "before.npy", _count(split, stride)),
        lambda folder: WindowCounts(stride, _load(folder, split)),
    )


def _count(split: TokenSplit, stride: int) -> np.ndarray:
    counts = []
    for first in range(0, split.num_documents, _READ):
        offsets = split.read_offsets(first, min(first + _READ, split.num_documents) + 1)
        windows = -(-np.diff(offsets) // stride)
        counts.append(np.add.reduceat(windows, np.arange(0, len(windows), _BLOCK)))
    return np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)


def _load(folder: pathlib.Path, split: TokenSplit) -> np.ndarray:
    try:
        before = np.load(folder / "before.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the counts of windows: {error}") from error
    if len(before) != -(-split.num_documents // _BLOCK) + 1:
        raise DataError(f"the counts of windows in {folder} do not belong to {split.where}")
    return before
