"""Best-fit packing: windows filled with whole documents, planned once per token cache and kept beside it."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.data.build_once import build_once
from tlx.data.cache import TokenCache

BLOCK = 16_384  # documents that are packed together; a window never holds documents of two blocks


class PackingPlan(NamedTuple):
    """Window w holds the pieces p in ends[w-1]..ends[w]: tokens[starts[p] : starts[p] + sizes[p]]."""

    ends: np.ndarray  # int64 [windows]
    starts: np.ndarray  # int64 [pieces]
    sizes: np.ndarray  # int32 [pieces]


def best_fit_plan(cache: TokenCache, capacity: int) -> PackingPlan:
    """The plan for windows of `capacity` tokens, read from beside the cache (memory-mapped) or made."""
    folder = cache.folder.with_name(f"{cache.folder.name}-best-fit-{capacity}")
    return build_once(
        folder,
        lambda temporary: _write(temporary, make_plan(cache.offsets, capacity), cache.fingerprint),
        lambda whole: _read(whole, cache.fingerprint),
    )


def make_plan(offsets: np.ndarray, capacity: int) -> PackingPlan:
    """Cuts documents longer than `capacity` into full windows and a rest, and packs the rests.

    Rests go, longest first, where they leave least room (Ding et al., Fewer truncations improve language
    modeling, 2024). Every token is in exactly one window.
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
    rests = lengths % capacity
    for document in np.flatnonzero(lengths >= capacity):
        start = int(offsets[document])
        for piece in range(int(lengths[document]) // capacity):
            yield [(start + piece * capacity, capacity)]
    order = np.argsort(-rests, kind="stable")
    order = order[rests[order] > 0]
    rest_starts = offsets[1:] - rests
    yield from pack(list(zip(rest_starts[order].tolist(), rests[order].tolist(), strict=True)), capacity)


def pack(pieces: list[tuple[int, int]], capacity: int) -> list[list[tuple[int, int]]]:
    """Pieces (start, or number, and size), longest first, into windows; sizes from 1 to the capacity."""
    windows: list[list[tuple[int, int]]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity)]  # windows by the room they have left
    rooms = 0  # bit r is set where with_room[r] is not empty
    for piece in pieces:
        size = piece[1]
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            window = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            windows[window].append(piece)
        else:
            room, window = capacity, len(windows)
            windows.append([piece])
        left = room - size
        if left:
            with_room[left].append(window)
            rooms |= 1 << left
    return windows


def _write(folder: pathlib.Path, plan: PackingPlan, fingerprint: str) -> None:
    for name, array in plan._asdict().items():
        np.save(folder / f"{name}.npy", array)
    (folder / "fingerprint").write_text(fingerprint)


def _read(folder: pathlib.Path, fingerprint: str) -> PackingPlan:
    try:
        plan = PackingPlan(
            *(np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in PackingPlan._fields)
        )
        whole = (folder / "fingerprint").read_text() == fingerprint
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the packing plan: {error}") from error
    if not whole or plan.ends[-1] != len(plan.starts) or len(plan.starts) != len(plan.sizes):
        raise DataError(f"the packing plan {folder} does not belong to its token cache")
    return plan
