"""Content of the cache folder: tokenizers and token caches, their sizes, their last use, and their removal."""

import contextlib
import os
import pathlib
import re
import shutil
from typing import NamedTuple

from tlx.base.errors import StorageError
from tlx.base.files import read_json
from tlx.data.build_once import lock_path, locked

# Temporary folders of build_once: ".KEY.random", left over where a process was killed.
_TEMPORARY = re.compile(r"\.([^.]+)\..+")


class CacheEntry(NamedTuple):
    """A folder of the cache, which is built again when it is needed and absent."""

    kind: str
    """Folder that it is in: "tokens", "tokenizers" or "programs" (what JAX has compiled)."""
    folder: pathlib.Path
    """The folder."""
    num_bytes: int
    """Size of its files, bytes."""
    used: float
    """Time of the last use, seconds since 1970."""
    about: str
    """Its contents in a few words."""


def cache_entries(cache: pathlib.Path) -> list[CacheEntry]:
    """Return the folders of a cache, the longest unused first."""
    entries = []
    for folder in sorted(cache.glob("*/*")):
        if not folder.is_dir() or folder.is_symlink():
            continue
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        lock = lock_path(_built(folder))
        times = [path.stat().st_mtime for path in (folder, lock) if path.exists()]
        entries.append(CacheEntry(folder.parent.name, folder, sum(sizes), max(times), _about(folder)))
    return sorted(entries, key=lambda entry: entry.used)


def remove_entry(entry: CacheEntry) -> bool:
    """Remove a folder of the cache, unless a process is building it; return whether it was removed.

    Processes that have its files open go on reading them. Raises StorageError where it cannot be removed.
    """
    folder = entry.folder
    try:
        with locked(lock_path(_built(folder)), wait=False):
            # Renamed first, so that no process sees half of it; build_once removes what a kill leaves.
            doomed = folder
            if not folder.name.startswith("."):
                doomed = folder.with_name(f".{folder.name}.removed")
                os.rename(folder, doomed)
            shutil.rmtree(doomed)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(f"cannot remove {folder}: {error}") from error
    return True


def _built(folder: pathlib.Path) -> pathlib.Path:
    """The final folder of a temporary one; any other as it is."""
    match = _TEMPORARY.fullmatch(folder.name)
    return folder.with_name(match[1]) if match else folder


def _about(folder: pathlib.Path) -> str:
    if _built(folder) != folder:
        return "left over by a process that was killed"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        meta = read_json(folder / "meta.json")
        return f"{meta['source']}: {meta['num_documents']:,} documents, {meta['num_tokens']:,} tokens"
    return ""
