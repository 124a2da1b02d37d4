"""Best-fit packing: windows filled with whole documents, planned once per token cache and stored beside it."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.data.build_once import build_once
from tlx.data.token_split import TokenSplit

# Documents that are packed together; a window never holds documents of two blocks. Bounds time and memory.
BLOCK = 16_384


class PackingPlan(NamedTuple):
    """The pieces of each window: window w holds pieces ends[w - 1]..ends[w] - 1."""

    ends: np.ndarray
    """int64 [windows], index after the last piece of each window."""
    starts: np.ndarray
    """int64 [pieces], first token of each piece in the cache."""
    sizes: np.ndarray
    """int32 [pieces], tokens of each piece."""


# Types of a plan's arrays on disk.
_DTYPES = {"ends": np.dtype(np.int64), "starts": np.dtype(np.int64), "sizes": np.dtype(np.int32)}


def best_fit_plan(split: TokenSplit, capacity: int) -> PackingPlan:
    """Return the plan for windows of `capacity` tokens; computed once, then memory-mapped from disk."""
    return build_once(
        split.plan_folder(f"best-fit-{capacity}"),
        lambda temporary: _write(temporary, plan_blocks(split, capacity), split.fingerprint),
        lambda finished: _read(finished, split.fingerprint),
    )


def plan_blocks(split: TokenSplit, capacity: int) -> Iterator[PackingPlan]:
    """Plan windows, a block of documents at a time.

    Documents longer than `capacity` are split into full windows and a remainder.
    Remainders are packed longest first, each into the window where it leaves the least space (best-fit
    decreasing; Ding et al., Fewer truncations improve language modeling, 2024). Every token is in exactly
    one window.

    Args:
        split: The documents.
        capacity: Tokens of a window.

    Yields:
        The plan of each block; its ends count from the first piece of the block.
    """
    for first in range(0, split.num_documents, BLOCK):
        offsets = split.read_offsets(first, min(first + BLOCK, split.num_documents) + 1)
        windows = list(_pack_block(offsets, capacity))
        pieces = np.array([piece for window in windows for piece in window], np.int64)
        ends = np.cumsum([len(window) for window in windows])
        yield PackingPlan(ends, pieces[:, 0], pieces[:, 1])


def _pack_block(offsets: np.ndarray, capacity: int) -> Iterator[list[tuple[int, int]]]:
    lengths = np.diff(offsets)
    remainders = lengths % capacity
    for document in np.flatnonzero(lengths >= capacity):
        start = int(offsets[document])
        for piece in range(int(lengths[document]) // capacity):
            yield [(start + piece * capacity, capacity)]
    # Stable, so that the plan is the same wherever it is computed.
    order = np.argsort(-remainders, kind="stable")
    order = order[remainders[order] > 0]
    remainder_starts = offsets[1:] - remainders
    pieces = list(zip(remainder_starts[order].tolist(), remainders[order].tolist(), strict=True))
    yield from pack(pieces, capacity)


def pack(pieces: list[tuple[int, int]], capacity: int) -> list[list[tuple[int, int]]]:
    """Pack pieces (key, size) into windows by best fit.

    `pieces` are sorted from longest to shortest, with sizes from 1 to `capacity`. Takes O(1) big-integer
    operations a piece.
    """
    windows: list[list[tuple[int, int]]] = []
    by_space: list[list[int]] = [[] for _ in range(capacity)]  # window indices by the space left
    spaces = 0  # bit s is set where by_space[s] is not empty
    for piece in pieces:
        size = piece[1]
        # All spaces that are large enough, in one operation on an integer of `capacity` bits.
        fitting = spaces >> size
        if fitting:
            # The lowest set bit is the smallest space that is large enough.
            space = size + (fitting & -fitting).bit_length() - 1
            window = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
            windows[window].append(piece)
        else:
            space = capacity
            window = len(windows)
            windows.append([piece])
        left = space - size
        if left:
            by_space[left].append(window)
            spaces |= 1 << left
    return windows


def _write(folder: pathlib.Path, blocks: Iterable[PackingPlan], fingerprint: str) -> None:
    """Write the arrays of a plan block by block: no more than a block is in memory."""
    num_pieces = 0
    counts = dict.fromkeys(PackingPlan._fields, 0)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb+")) for name in counts}
        for name, file in files.items():
            _write_header(file, _DTYPES[name], 0)
        for block in blocks:
            block = block._replace(ends=block.ends + num_pieces)
            num_pieces += len(block.starts)
            for name, array in block._asdict().items():
                files[name].write(array.astype(_DTYPES[name]).tobytes())
                counts[name] += len(array)
        for name, file in files.items():
            file.seek(0)
            _write_header(file, _DTYPES[name], counts[name])
    (folder / "fingerprint").write_text(fingerprint)


def _write_header(file: IO[bytes], dtype: np.dtype, count: int) -> None:
    """Write the header of a .npy file, whose size does not depend on `count`: numpy leaves room to grow."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)


def _read(folder: pathlib.Path, fingerprint: str) -> PackingPlan:
    try:
        arrays = {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in PackingPlan._fields
        }
        plan = PackingPlan(**arrays)
        matches = (folder / "fingerprint").read_text() == fingerprint
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the packing plan: {error}") from error
    if not matches or plan.ends[-1] != len(plan.starts) or len(plan.starts) != len(plan.sizes):
        raise DataError(f"the packing plan {folder} does not belong to its token cache")
    return plan
