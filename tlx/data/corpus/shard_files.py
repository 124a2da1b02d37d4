"""Reads ranges of bytes of the shards of a corpus: memory-mapped in a folder, by requests in a bucket."""

import collections
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base import place as places
from tlx.base.errors import DataError
from tlx.data.corpus.shard_cache import ShardCache

# Each mapped file holds a descriptor, of which a process often has 1,024.
_MAPPED_FILES = 256


class ShardFiles:
    """The shards of a split. Picklable: each data worker opens its own; threads may share one.

    Attributes:
        is_remote: Whether a read is a request to a bucket, of which several should be in flight.
    """

    def __init__(self, place: str, names: Sequence[str], sizes: np.ndarray, cache: ShardCache | None = None):
        """Open nothing yet.

        Args:
            place: Folder or bucket of the corpus.
            names: Names of the shards.
            sizes: int64, bytes of each.
            cache: Keeps shards of a bucket on this machine; None: each read is a request.
        """
        self.is_remote = places.is_bucket(place)
        self._place = place
        self._names = names
        self._sizes = sizes
        self._cache = cache if self.is_remote else None
        self._mapped: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": collections.OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})

    def read(self, shard: int, start: int, stop: int) -> np.ndarray:
        """Read a range of bytes.

        Args:
            shard: Index of the shard.
            start: First byte.
            stop: The byte after the last.

        Returns:
            uint8 [stop - start].

        Raises:
            DataError: The shard is missing or damaged.
        """
        with self._lock:
            mapped = self._mapped.get(shard)
            if mapped is not None:
                self._mapped.move_to_end(shard)
                return mapped[start:stop]
        if not self.is_remote:
            return self._keep(shard, places.parse(self._place) / self._names[shard])[start:stop]
        kept = self._cache.find(shard) if self._cache is not None else None
        if kept is not None:
            return self._keep(shard, kept)[start:stop]
        try:
            data = places.read_range(places.parse(self._place) / self._names[shard], start, stop)
        except OSError as error:
            raise DataError(f"cannot read the prepared corpus: {error}") from error
        if len(data) != stop - start:
            raise DataError(f"{self._place}/{self._names[shard]} is damaged: it ends before byte {stop}")
        return np.frombuffer(data, np.uint8)

    def _keep(self, shard: int, path: places.Place) -> np.ndarray:
        """Map a file, and close the one that was not used for longest."""
        assert isinstance(path, pathlib.Path)
        mapped = self._map(path, int(self._sizes[shard]))
        with self._lock:
            self._mapped[shard] = mapped
            if len(self._mapped) > _MAPPED_FILES:
                # Slices that are still in use keep their file mapped.
                self._mapped.popitem(last=False)
        return mapped

    def _map(self, path: pathlib.Path, expected: int) -> np.ndarray:
        try:
            size = path.stat().st_size
            # A file that was cut short would map, and end in a bus error far from here.
            if size != expected:
                raise DataError(f"{path} is damaged: {size} bytes instead of {expected}")
            return np.asarray(np.memmap(path, np.uint8, "r"))
        except OSError as error:
            raise DataError(f"cannot read the prepared corpus: {error}") from error
