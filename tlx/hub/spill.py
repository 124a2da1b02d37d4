"""Parameters written to mapped files piece by piece, so that a model larger than the memory can be saved.

A stacked parameter is made of one tensor per layer: no file holds it as it is. It is put together on disk,
and read back from there by whoever stores it.
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


class MappedArray(np.ndarray):
    """An array over a file that nobody changes any more: a copy for safety is the array itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "MappedArray":
        return self


def spill(
    params: Mapping[str, LazyTensor], folder: pathlib.Path, progress: bool = False
) -> dict[str, MappedArray]:
    """{path: array} over files in `folder`, written in pieces of about 64 MiB. StorageError if it is full."""
    leaves = tqdm.tqdm(params.items(), "reading", unit="parameter", disable=not progress, leave=False)
    try:
        return {path: _mapped(leaf, folder / str(number)) for number, (path, leaf) in enumerate(leaves)}
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error}") from error


def pieces(shape: tuple[int, ...], itemsize: int) -> Iterator[Index]:
    """Slices that together are an array of `shape`, about PIECE_BYTES each, along its first dims."""
    size = itemsize * math.prod(shape)
    if size <= PIECE_BYTES or not shape:
        yield tuple(slice(None) for _ in shape)
        return
    row = size // shape[0]
    step = max(1, PIECE_BYTES // row)
    for start in range(0, shape[0], step):
        first = slice(start, min(start + step, shape[0]))
        inner = pieces(shape[1:], itemsize) if step == 1 else [tuple(slice(None) for _ in shape[1:])]
        yield from ((first, *rest) for rest in inner)


def _mapped(leaf: LazyTensor, path: pathlib.Path) -> MappedArray:
    size = leaf.dtype.itemsize * math.prod(leaf.shape)
    with open(path, "wb") as handle:
        handle.truncate(size)
    if not size:
        return np.empty(leaf.shape, leaf.dtype).view(MappedArray)
    for index in pieces(leaf.shape, leaf.dtype.itemsize):
        # Mapped anew for each piece: what was written leaves this process's memory.
        np.memmap(path, leaf.dtype, "r+", shape=leaf.shape or (1,))[index] = leaf.read(index)
    return np.memmap(path, leaf.dtype, "r", shape=leaf.shape or (1,)).reshape(leaf.shape).view(MappedArray)
