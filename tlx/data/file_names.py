"""Files that globs and names of folders stand for."""

import glob
import logging
import os
from collections.abc import Sequence

from tlx.base.errors import DataError
from tlx.base.nearest_path import suggest_paths

_log = logging.getLogger("tlx")


def matching_files(patterns: Sequence[str], field: str, endings: tuple[str, ...] = ()) -> list[str]:
    """Return the files of globs and folders.

    A folder stands for all files below it, hidden ones and those of other endings aside.

    Args:
        patterns: Globs, in which ** matches folders of any depth, and names of files and folders.
        field: Config key of the patterns, for messages.
        endings: Endings of the files to take from a folder; empty: all.

    Returns:
        Absolute paths without duplicates, sorted.

    Raises:
        DataError: A pattern matches no file, or a folder has none of these endings.
    """
    paths: set[str] = set()
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)
        if "\0" in expanded:
            raise DataError(f"{field} = {pattern!r} is no file name: it has a NUL character")
        if os.path.isdir(expanded):
            paths.update(_files_below(expanded, field, endings))
            continue
        matches = [expanded] if os.path.isfile(expanded) else glob.glob(expanded, recursive=True)
        files = [os.path.abspath(path) for path in matches if os.path.isfile(path)]
        if not files:
            raise DataError(f"{field} = {pattern!r} matches no file ({suggest_paths(pattern)})")
        paths.update(files)
    return sorted(paths)


def _files_below(folder: str, field: str, endings: tuple[str, ...]) -> list[str]:
    paths = []
    others = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.abspath(os.path.join(parent, name))
            (paths if not endings or name.endswith(endings) else others).append(path)
    if not paths:
        wanted = f" with an ending of {', '.join(endings)}" if endings else ""
        raise DataError(f"{field} = {folder!r} is a folder without a file{wanted}")
    if others:
        _log.warning("%s = %r: %d files of other endings are not read", field, folder, len(others))
    return paths
