"""Builds a cache folder exactly once across processes."""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import TypeVar

from tlx.base.errors import DataError, StorageError
from tlx.base.files import sync_folder

T = TypeVar("T")
_log = logging.getLogger(__name__)


def build_once(
    folder: pathlib.Path, make: Callable[[pathlib.Path], None], load: Callable[[pathlib.Path], T]
) -> T:
    """Load a folder, and build it first where it is absent or damaged.

    One process builds under a file lock, the others wait. The folder appears complete or not at all: it is
    built under a temporary name and renamed.

    Args:
        folder: The final folder.
        make: Writes the content into the temporary folder that it gets.
        load: Reads the finished folder; raises DataError where it is damaged.

    Returns:
        The result of `load`.

    Raises:
        StorageError: The folder cannot be written.
    """
    if folder.exists():
        with contextlib.suppress(DataError):  # logged below, once, by the process that builds it again
            loaded = load(folder)
            _note_use(folder)
            return loaded
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock_path(folder)):
            return _make_locked(folder, make, load)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error}; TLX_CACHE names another folder") from error


def _make_locked(
    folder: pathlib.Path, make: Callable[[pathlib.Path], None], load: Callable[[pathlib.Path], T]
) -> T:
    # The lock is held, so temporary folders are left over from processes that died.
    for stale in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        if folder.exists():
            try:
                return load(folder)
            except DataError as error:
                _log.warning("%s; making it again", error)
        make(temporary)
        for path in (path for path in temporary.rglob("*") if path.is_file()):
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():
            # Renamed before it is removed, so that a process that has it open can go on reading.
            os.rename(folder, temporary.with_name(temporary.name + ".damaged"))
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        for leftover in folder.parent.glob(f"{temporary.name}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return load(folder)


def lock_path(folder: pathlib.Path) -> pathlib.Path:
    """Return the lock file of a folder; the time of its last change is that of the folder's last use."""
    return folder.with_name(folder.name + ".lock")


def _note_use(folder: pathlib.Path) -> None:
    # The cache of another user, or a read-only one, can be read without a note of it.
    with contextlib.suppress(OSError):
        os.utime(lock_path(folder))


@contextlib.contextmanager
def locked(path: pathlib.Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases when the process ends in any way.

    Raises BlockingIOError where another process holds it, unless `wait`.
    """
    with open(path, "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            _log.warning("waiting for the process that is writing %s", path.with_suffix(""))
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
