"""Shards of a bucket that are kept on this machine, up to a limit.

Windows come from all over a corpus, each from another shard: keeping the newest would fetch hundreds of megabytes
for every window and throw them away. So the cache fills in the background until it is full, and then stays as it is;
reads of the other shards remain requests.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import queue
import threading
from collections.abc import Sequence
from typing import Any

from tlx.base import place as places
from tlx.base.files import atomic_open, cache_folder
from tlx.data.build_once import lock_path, locked

_log = logging.getLogger("tlx")

_FOLDER = "shards"


class ShardCache:
    """The shards of a split in the cache folder, by their checksums; processes of a machine share it. Picklable."""

    def __init__(self, place: str, key: str, names: Sequence[str], sha256: Sequence[str], limit_bytes: int):
        """Fetch nothing yet.

        Args:
            place: Bucket of the corpus.
            key: Key of the corpus, the name of its folder in the cache.
            names: Names of the shards.
            sha256: Checksum of each.
            limit_bytes: Bytes of the shards of all corpora that are kept.
        """
        self._place = place
        self._key = key
        self._names = names
        self._sha256 = sha256
        self._limit = limit_bytes
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        shared = ("_place", "_key", "_names", "_sha256", "_limit")
        return {name: self.__dict__[name] for name in shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def find(self, shard: int) -> pathlib.Path | None:
        """Return the file of a shard; where there is none, None, and it is fetched in the background."""
        path = self._path(shard)
        if path.exists():
            return path
        with self._lock:
            if shard in self._asked or self._is_full:
                return None
            self._asked.add(shard)
            if self._thread is None:
                self._thread = threading.Thread(target=self._fetch_all, daemon=True)
                self._thread.start()
        self._queue.put(shard)
        return None

    def wait(self) -> None:
        """Return when all that was asked for is fetched."""
        self._queue.join()

    def _reset(self) -> None:
        self._asked: set[int] = set()
        self._is_full = False
        self._lock = threading.Lock()
        self._queue: queue.Queue[int] = queue.Queue()
        self._thread: threading.Thread | None = None

    def _path(self, shard: int) -> pathlib.Path:
        return cache_folder() / _FOLDER / self._key[:32] / self._sha256[shard]

    def _fetch_all(self) -> None:
        while True:
            shard = self._queue.get()
            try:
                if not self._is_full:
                    self._fetch(shard)
            except OSError as error:
                # The shard is read by requests all the same.
                _log.warning("a shard is not kept in the cache: %s", error)
                self._is_full = True
            finally:
                self._queue.task_done()

    def _fetch(self, shard: int) -> None:
        data = places.read_range(places.parse(self._place) / self._names[shard])
        if hashlib.sha256(data).hexdigest() != self._sha256[shard]:
            raise OSError(f"{self._place}/{self._names[shard]} has not the content that the index states")
        path = self._path(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of the processes of a machine one at a time, so that together they stay below the limit.
        with locked(lock_path(path.parent)):
            if _num_bytes(cache_folder() / _FOLDER) + len(data) > self._limit:
                self._is_full = True
            elif not path.exists():
                with atomic_open(path, "wb") as handle:
                    handle.write(data)


def _num_bytes(folder: pathlib.Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(base, name)).st_size
    return total
