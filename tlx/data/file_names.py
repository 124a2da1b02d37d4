"""Files that globs and names of folders stand for, on disks and in buckets."""

import fnmatch
import glob
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

from tlx.base.errors import DataError
from tlx.base.nearest_path import suggest_paths
from tlx.base.place import BucketPath, list_files, parse

_log = logging.getLogger("tlx")


def matching_files(patterns: Sequence[str], field: str, endings: tuple[str, ...] = ()) -> list[str]:
    """Return the files of globs and folders.

    A folder stands for all files below it, hidden ones and those of other endings aside.

    Args:
        patterns: Globs, in which ** matches folders of any depth, and names of files and folders; of a bucket by
            gs://bucket/... or s3://bucket/...
        field: Config key of the patterns, for messages.
        endings: Endings of the files to take from a folder; empty: all.

    Returns:
        Absolute paths (those of buckets with their scheme) without duplicates, sorted.

    Raises:
        DataError: A pattern matches no file, or a folder has none of these endings.
    """
    paths: set[str] = set()
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)
        if "\0" in expanded:
            raise DataError(f"{field} = {pattern!r} is no file name: it has a NUL character")
        place = parse(pattern) if "://" in pattern else None
        if isinstance(place, BucketPath):
            paths.update(_bucket_files(place, field, endings))
            continue
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


class FileVersion(NamedTuple):
    """What stands for the content of a file, which is not read for it."""

    size: int
    """Bytes."""
    version: int | str
    """Time of the last change, ns; of an object of a bucket its checksum and generation."""


def file_versions(paths: Sequence[str]) -> list[FileVersion]:
    """Return the versions of files; folders of buckets are listed once each."""
    listed: dict[BucketPath, dict[str, FileVersion]] = {}
    versions = []
    for path in paths:
        if "://" not in path:
            stat = os.stat(path)
            versions.append(FileVersion(stat.st_size, stat.st_mtime_ns))
            continue
        place = parse(path)
        assert isinstance(place, BucketPath)
        if place.parent not in listed:
            listed[place.parent] = {
                name: FileVersion(stored.size, f"{stored.checksum} {stored.generation}")
                for name, stored in list_files(place.parent).items()
            }
        versions.append(listed[place.parent][place.name])
    return versions


def _bucket_files(place: BucketPath, field: str, endings: tuple[str, ...]) -> list[str]:
    """Return the objects of a key, of a glob or below a prefix."""
    parts = place.key.split("/")
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if fixed == len(parts) and place.is_file():
        return [str(place)]
    base = BucketPath(place.scheme, place.bucket, "/".join(parts[:fixed]))
    found = []
    for name in list_files(base):
        names = name.split("/")
        if fixed < len(parts):
            matches = _matches(names, parts[fixed:])
        else:
            matches = not any(part.startswith(".") for part in names) and (
                not endings or name.endswith(endings)
            )
        if matches:
            found.append(str(base / name))
    if not found:
        raise DataError(f"{field} = {str(place)!r} matches no object")
    return found


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a name match those of a glob, in which ** is any number of folders."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_matches(names[skipped:], pattern[1:]) for skipped in range(len(names) + 1))
    if not names or not fnmatch.fnmatchcase(names[0], pattern[0]):
        return False
    return _matches(names[1:], pattern[1:])
