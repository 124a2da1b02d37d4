"""Atomic writes, JSON files, hashes, and the user's cache folder."""

import contextlib
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import IO, Any

from tlx.base.errors import StorageError


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing under a temporary name, then sync and rename it: readers see all or nothing."""
    path = pathlib.Path(path)
    name = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the user's umask
    handle = os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8")
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(name, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write indented JSON atomically."""
    with atomic_open(path) as handle:
        json.dump(value, handle, indent=2, sort_keys=False)
        handle.write("\n")


def read_json(path: str | os.PathLike) -> Any:
    """Parse a JSON file."""
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def sync_folder(folder: str | os.PathLike) -> None:
    """Sync a folder, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: str | os.PathLike) -> str:
    """Return the hex sha256 of a file's content, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hex sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cache_folder() -> pathlib.Path:
    """Return the cache folder, and create it where it is missing.

    It is $TLX_CACHE, else $XDG_CACHE_HOME/tlx, else ~/.cache/tlx. Raises StorageError where it cannot be
    created.
    """
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(os.environ.get("TLX_CACHE") or os.path.join(user_cache, "tlx"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the cache folder {folder}: {error}; set TLX_CACHE to one") from error
    return folder
