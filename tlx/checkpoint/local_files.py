"""Files of the emergency tier: the shards of one process at one step, as raw bytes with a checksum of each.

    <folder>/<run id>/disk                              random id: processes that read the same share a disk
    <folder>/<run id>/<step>-<start>-<serial>/<key>     MAGIC, length of the header, header (JSON), shards

The name says all that a restart must know. `start` is the start of the run that saved it and `serial` the number of
rollbacks in it, so that two histories of one step are never mixed. `key` is a hash of the slices that the file holds:
files of one step with one key hold the same bytes, whichever process wrote them.
"""

import json
import os
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import files
from tlx.checkpoint import trees
from tlx.checkpoint.manifest import Damaged

MAGIC = b"tlxlocal"
INCOMING = ".incoming-"
_LENGTH_BYTES = 8
_MAX_HEADER = 64 << 20
_NAME = re.compile(r"(0|[1-9][0-9]{0,17})-([0-9a-f]{16})-([0-9]{1,9})")
KEY = re.compile(r"[0-9a-f]{32}")

Index = tuple[tuple[int, int], ...]


class SavedStep(NamedTuple):
    """A step that processes have saved together."""

    step: int
    """Its number."""
    start: str
    """Id of the start of the run that saved it."""
    serial: int
    """Number of rollbacks in that start before."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.step}-{self.start}-{self.serial}"


class Piece(NamedTuple):
    """A slice of an array that a process holds."""

    path: str
    """Path of the array in the tree."""
    shape: tuple[int, ...]
    """Shape of the whole array."""
    dtype: str
    """Name of its dtype."""
    index: Index
    """First and last index, exclusive, in each dim."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Shape of the slice."""
        return tuple(stop - start for start, stop in self.index)

    @property
    def num_bytes(self) -> int:
        """Bytes of the slice on the host."""
        return int(np.prod(self.sizes, dtype=np.int64)) * jnp.dtype(self.dtype).itemsize


def parse_name(name: str) -> SavedStep | None:
    """Return the step whose folder has this name; None for other names."""
    match = _NAME.fullmatch(name)
    return None if match is None else SavedStep(int(match[1]), match[2], int(match[3]))


def slice_of(index: Sequence[slice], shape: Sequence[int]) -> Index:
    """Return JAX's index of a shard as first and last index of each dim."""
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def pieces_of(abstract: Any) -> list[Piece]:
    """Return the distinct slices that this process holds of a tree of arrays or ShapeDtypeStructs with shardings."""
    pieces = []
    for path, leaf in sorted(trees.flat(abstract).items()):
        shards = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
        indices = {slice_of(index, leaf.shape) for index in shards}
        pieces += [Piece(path, tuple(leaf.shape), str(leaf.dtype), index) for index in sorted(indices)]
    return pieces


def key_of(pieces: Sequence[Piece]) -> str:
    """Return the hash of what a file with these slices holds."""
    return files.sha256_json([list(piece) for piece in pieces])[:32]


def to_host(tree: Any, pieces: Sequence[Piece]) -> list[np.ndarray]:
    """Copy the slices of a tree of arrays to the host; the arrays may be donated once this returns."""
    leaves = trees.flat(tree)
    for leaf in leaves.values():
        # All copies are on their way before the first is waited for.
        leaf.copy_to_host_async()
    shards = {
        (path, slice_of(shard.index, leaf.shape)): shard.data
        for path, leaf in leaves.items()
        for shard in leaf.addressable_shards
    }
    # On CPU an array of numpy may be the device's own memory, which the next step overwrites.
    copy = True if jax.default_backend() == "cpu" else None
    return [np.array(shards[piece.path, piece.index], copy=copy) for piece in pieces]


def write(
    path: pathlib.Path, saved: SavedStep, shards: Sequence[np.ndarray], extra: Mapping[str, Any]
) -> None:
    """Write a file, complete or not at all.

    Args:
        path: The file, <folder>/<run id>/<name of the step>/<key>.
        saved: The step.
        shards: Slices in the order of `pieces_of`.
        extra: JSON that is stored with them.
    """
    bodies = [np.ascontiguousarray(shard).reshape(-1).view(np.uint8).data for shard in shards]
    checksums = [zlib.crc32(body) for body in bodies]
    content = {"format": 1, "name": f"{saved.name}/{path.name}", "crc32": checksums, "extra": dict(extra)}
    header = json.dumps({"sha256": files.sha256_json(content), **content}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{INCOMING}{os.getpid()}-{path.name}"
    with open(temporary, "wb") as handle:
        handle.write(MAGIC + len(header).to_bytes(_LENGTH_BYTES, "little") + header)
        for body in bodies:
            handle.write(body)
    # Nothing is forced to the disk: this tier is for processes and hosts that go, and a torn file is noticed.
    os.replace(temporary, path)


def read(path: pathlib.Path, pieces: Sequence[Piece]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Read a file and compare it with its checksums.

    Args:
        path: The file.
        pieces: The slices that it holds.

    Returns:
        The slices, and the JSON stored with them.

    Raises:
        Damaged: It is not what was saved.
    """
    shards = []
    try:
        with open(path, "rb") as handle:
            header = _read_header(handle, path)
            for piece, checksum in zip(pieces, header["crc32"], strict=True):
                shard = np.empty(piece.sizes, jnp.dtype(piece.dtype))
                body = shard.reshape(-1).view(np.uint8).data
                if handle.readinto(body) != body.nbytes or zlib.crc32(body) != checksum:
                    raise Damaged(f"{piece.path} is not what was saved (crc32 differs)")
                shards.append(shard)
            if handle.read(1):
                raise Damaged("it is longer than what was saved")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"it cannot be read: {type(error).__name__}: {error}") from error
    return shards, header["extra"]


def _read_header(handle: Any, path: pathlib.Path) -> dict[str, Any]:
    start = handle.read(len(MAGIC) + _LENGTH_BYTES)
    length = int.from_bytes(start[len(MAGIC) :], "little")
    if start[: len(MAGIC)] != MAGIC or length > _MAX_HEADER:
        raise Damaged("it does not begin as a file of shards does")
    header = json.loads(handle.read(length))
    stated = header.pop("sha256")
    if stated != files.sha256_json(header) or header["name"] != f"{path.parent.name}/{path.name}":
        raise Damaged("its header is not what was saved")
    return header


def listing(folder: pathlib.Path) -> list[tuple[SavedStep, str]]:
    """Return the steps and keys of the files in a run's folder of this host."""
    names = []
    for entry in sorted(folder.glob("*-*-*/*")):
        saved = parse_name(entry.parent.name)
        if saved is not None and KEY.fullmatch(entry.name) and entry.is_file():
            names.append((saved, entry.name))
    return names
