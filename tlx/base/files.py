"""Atomic writes, JSON files, hashes, and the user's cache folder."""

import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import IO, Any

from tlx.base.bucket_path import BucketPath
from tlx.base.errors import DataError, StorageError, UserError

# Beginning of the name of a folder that `new_folder` has not finished.
PARTIAL = ".partial-"

# A full disk, and a quota that is used up.
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike | BucketPath, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing under a temporary name, then sync and rename it: readers see all or nothing.

    An object of a bucket is written whole at the end.
    """
    if isinstance(path, BucketPath):
        with io.StringIO() if "b" not in mode else io.BytesIO() as buffer:
            yield buffer
            content = buffer.getvalue()
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return
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


def write_json(path: str | os.PathLike | BucketPath, value: Any) -> None:
    """Write indented JSON atomically."""
    with atomic_open(path) as handle:
        json.dump(value, handle, indent=2, sort_keys=False)
        handle.write("\n")


def read_json(path: str | os.PathLike | BucketPath) -> Any:
    """Parse a JSON file."""
    if isinstance(path, BucketPath):
        return json.loads(path.read_bytes())
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


@contextlib.contextmanager
def new_folder(target: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary folder that becomes `target` at the end: an error leaves nothing half done.

    `target` must not exist, or be an empty folder (one that is mounted, say), which stays what it is.
    Raises StorageError where the folder cannot be made or written.
    """
    target = pathlib.Path(target).absolute()
    exists = target.is_dir()
    parent = target if exists else target.parent
    temporary = parent / f"{PARTIAL}{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"cannot make {target}: {error.strerror}") from error
    try:
        with storage_errors():
            yield temporary
            if exists:
                for path in temporary.iterdir():
                    os.replace(path, target / path.name)
            else:
                os.replace(temporary, target)
            sync_folder(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Raise StorageError or DataError, one line, for an OSError of a disk; others pass."""
    try:
        yield
    except OSError as error:
        known = storage_error(error)
        if known is None:
            raise
        raise known from error


def storage_error(error: OSError) -> UserError | None:
    """Return the error of a file that cannot be written (or read), as one line; None for any other OSError."""
    path = error.filename
    where = f"{path}: " if path else ""
    if "://" in str(path or ""):
        return StorageError(f"{where}{error.strerror}")
    if error.errno in _FULL:
        return StorageError(f"{where}{error.strerror}; free some space, or choose a folder on another disk")
    if error.errno == errno.EROFS:
        return StorageError(f"{where}{error.strerror}; choose a folder that can be written")
    if error.errno in (errno.EACCES, errno.EPERM):
        if path and os.path.isfile(path) and not os.access(path, os.R_OK):
            return DataError(f"{path} cannot be read: {error.strerror}")
        return StorageError(f"{where}{error.strerror}; choose a folder that you may write")
    if error.errno == errno.EISDIR and path:
        return DataError(f"{path} is a folder where a file is expected")
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and path:
        return StorageError(f"{where}{error.strerror}; a file is in the way of a folder")
    return None


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
