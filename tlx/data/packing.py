"""Best-fit packing: windows filled with whole documents, planned once per token cache and stored beside it."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.data.build_once import build_once
from tlx.data.cache import TokenCache

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


def best_fit_plan(cache: TokenCache, capacity: int) -> PackingPlan:
    """Return the plan for windows of `capacity` tokens; computed once, then memory-mapped from disk."""
    # Beside the cache: every run with this text and length shares the plan.
    folder = cache.folder.with_name(f"{cache.folder.name}-best-fit-{capacity}")
    return build_once(
        folder,
        lambda temporary: _write(temporary, make_plan(cache.offsets, capacity), cache.fingerprint),
        lambda finished: _read(finished, cache.fingerprint),
    )


def make_plan(offsets: np.ndarray, capacity: int) -> PackingPlan:
    """Plan windows: documents longer than `capacity` are split into full windows and a remainder.

    Remainders are packed longest first, each into the window where it leaves the least space (best-fit
    decreasing; Ding et al., Fewer truncations improve language modeling, 2024). Every token is in exactly
    one window.
    """
    starts: list[int] = []
    sizes: list[int] = []
    ends: list[int] = []
    for first in range(0, len(offsets) - 1, BLOCK):
        for window in _pack_block(offsets[first : first + BLOCK + 1], capacity):
            for start, size in window:
                starts.append(start)
                sizes.append(size)
            ends.append(len(starts))
    return PackingPlan(np.array(ends, np.int64), np.array(starts, np.int64), np.array(sizes, np.int32))


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


def _write(folder: pathlib.Path, plan: PackingPlan, fingerprint: str) -> None:
    for name, array in plan._asdict().items():
        np.save(folder / f"{name}.npy", array)
    (folder / "fingerprint").write_text(fingerprint)


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
