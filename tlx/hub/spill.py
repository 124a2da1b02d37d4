"""Parameters assembled in memory-mapped files, so that a model larger than host memory can be converted.

A parameter stacked over layers is read from one tensor per layer, so that no file of the checkpoint holds it
whole. It is assembled on disk, and the writer of the new checkpoint reads it from there.
"""

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from tlx.base.errors import StorageError
from tlx.hub.weights import Index, LazyTensor

PIECE_BYTES = 2**26
"""Size in bytes of the slices that are read and written at a time."""


class MappedArray(np.ndarray):
    """An array mapped from a file that is no longer written; a deep copy returns the array itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "MappedArray":
        return self


def spill(
    params: Mapping[str, LazyTensor], folder: pathlib.Path, progress: bool = False
) -> dict[str, MappedArray]:
    """Write parameters to files, in slices of about 64 MiB, and map them.

    Args:
        params: {path: tensor that is read on demand}.
        folder: An existing directory for the files.
        progress: Show a progress bar.

    Returns:
        {path: array mapped from its file}.

    Raises:
        StorageError: If a file cannot be written, as when the disk is full.
    """
    leaves = tqdm.tqdm(params.items(), "reading", unit="parameter", disable=not progress, leave=False)
    try:
        return {path: _mapped(leaf, folder / str(number)) for number, (path, leaf) in enumerate(leaves)}
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error}") from error


def pieces(shape: tuple[int, ...], itemsize: int) -> Iterator[Index]:
    """Yield slices of about PIECE_BYTES that together cover an array, along its leading dims."""
    size = itemsize * math.prod(shape)
    if size <= PIECE_BYTES or not shape:
        yield tuple(slice(None) for _ in shape)
        return
    row_bytes = size // shape[0]
    step = max(1, PIECE_BYTES // row_bytes)
    for start in range(0, shape[0], step):
        first = slice(start, min(start + step, shape[0]))
        if step == 1:
            inner = pieces(shape[1:], itemsize)
        else:
            inner = [tuple(slice(None) for _ in shape[1:])]
        for index in inner:
            yield (first, *index)


def _mapped(leaf: LazyTensor, path: pathlib.Path) -> MappedArray:
    """Write a parameter to a file and map it read-only."""
    size = leaf.dtype.itemsize * math.prod(leaf.shape)
    with open(path, "wb") as handle:
        handle.truncate(size)
    if not size:
        return np.empty(leaf.shape, leaf.dtype).view(MappedArray)
    for index in pieces(leaf.shape, leaf.dtype.itemsize):
        # Mapped again for each slice, so that written pages do not stay in the memory of this process.
        np.memmap(path, leaf.dtype, "r+", shape=leaf.shape or (1,))[index] = leaf.read(index)
    return np.memmap(path, leaf.dtype, "r", shape=leaf.shape or (1,)).reshape(leaf.shape).view(MappedArray)
