"""Places: where runs, checkpoints, corpora and exports live, a folder of this machine or a prefix of a bucket.

A place is a pathlib.Path, or a BucketPath (gs://bucket/a, s3://bucket/a), which has the methods of a path that whole
objects can have. The functions of this module take both. Buckets have no folders, locks, renames and appends: what
needs one of them has another way there, such as a marker object or a conditional write.
"""

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import TypeAlias

from tlx.base import files
from tlx.base.bucket_path import BucketPath
from tlx.base.errors import ConfigError, UserError, one_of
from tlx.base.object_store import EXTRAS, StoredObject, VersionedData, check_installed

# pathlib writes gs://b as gs:/b: such a path is no folder "gs:" either.
_SCHEME = re.compile(r"(?:([a-zA-Z][a-zA-Z0-9+.-]*)://|(gs|s3):/(?!/))(.*)", re.DOTALL)
# Google's and Amazon's rules.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")


Place: TypeAlias = pathlib.Path | BucketPath


def parse(text: str | os.PathLike | BucketPath) -> Place:
    """Return the place that a text names: an absolute path, or one of a bucket. Nothing is opened.

    Raises ConfigError for a scheme or a bucket's name that is none, and where the scheme's extra is not installed.
    """
    place = _named_place(text)
    if isinstance(place, BucketPath) and not isinstance(text, BucketPath):
        check_installed(place.scheme)
    return place


def as_named(text: str | os.PathLike | BucketPath) -> Place:
    """Return the place that a text names as `parse` does, but the path of a folder as it was written."""
    place = parse(text)
    if isinstance(text, BucketPath) or isinstance(place, BucketPath) or "://" in str(text):
        return place
    return pathlib.Path(os.fspath(text))


def _named_place(text: str | os.PathLike | BucketPath) -> Place:
    """Return the place that a text names, whether or not the extra of its scheme is installed."""
    if isinstance(text, BucketPath):
        return text
    name = os.fspath(text)
    match = _SCHEME.fullmatch(name)
    if match is None:
        return pathlib.Path(name).absolute()
    scheme = (match[1] or match[2]).lower()
    if scheme == "file":
        return pathlib.Path("/" + match[3].lstrip("/")).absolute()
    if scheme == "hf":
        raise ConfigError(
            f"{name}: a model of the Hugging Face Hub can be read as a model, not as a run or a file"
        )
    if scheme not in EXTRAS:
        raise ConfigError(one_of("scheme of " + name, f"{scheme}://", ("gs://", "s3://", "a folder")))
    bucket, _, key = match[3].partition("/")
    if _BUCKET.fullmatch(bucket) is None:
        raise ConfigError(
            f"{name!r} names no bucket (3 to 63 of a-z 0-9 - _ .): write {scheme}://BUCKET/PATH"
        )
    if ".." in key.split("/"):
        raise ConfigError(f"{name!r} has '..' in it, which means nothing in a bucket")
    return BucketPath(scheme, bucket, key)


def is_bucket(text: str | os.PathLike | BucketPath) -> bool:
    """Return whether a text names a place that is not a folder of this machine.

    The extra of its scheme need not be installed: a launcher passes on addresses that only its hosts read.
    """
    return isinstance(_named_place(text), BucketPath)


def absolute_text(text: str | os.PathLike | BucketPath) -> str:
    """Return the absolute path or the address of a place or of a model of the Hub, as records of runs keep it."""
    if str(text).startswith("hf://"):
        return str(text)
    place = _named_place(text)
    return str(place) if isinstance(place, BucketPath) else os.path.abspath(str(text))


def local_path(text: str | os.PathLike | BucketPath) -> pathlib.Path:
    """Return the path of a folder or file of this machine; ConfigError for a place in a bucket."""
    # Nobody is sent to install an extra for what is refused all the same.
    if is_bucket(text):
        raise ConfigError(f"{text} is in a bucket: here a folder of this machine is needed")
    return pathlib.Path(str(text))


def read_range(place: Place, start: int = 0, stop: int | None = None) -> bytes:
    """Read bytes of a file or an object.

    Args:
        place: The file or object.
        start: First byte.
        stop: End of the range; None: the end of the file.

    Returns:
        The bytes.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read, or ends before `stop`.
    """
    if isinstance(place, BucketPath):
        result = place.store.read(place.key, start, stop)
        if result is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(place))
        return result.data
    with open(place, "rb") as handle:
        handle.seek(start)
        data = handle.read() if stop is None else handle.read(stop - start)
    if stop is not None and len(data) != stop - start:
        raise OSError(errno.EIO, f"ends before byte {stop}", str(place))
    return data


def write(place: Place, data: bytes) -> None:
    """Write a whole file or object: readers see the old content or the new one, never a part."""
    if isinstance(place, BucketPath):
        place.write_bytes(data)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_open(place, "wb") as handle:
        handle.write(data)


def read_versioned(place: Place) -> VersionedData | None:
    """Return content and generation, for `write_if`; None where there is no such file or object."""
    if isinstance(place, BucketPath):
        return place.store.read(place.key)
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        return None
    return VersionedData(data, hashlib.sha256(data).digest())


def write_if(place: Place, data: bytes, generation: bytes | None) -> bytes | None:
    """Write a file or object where nobody has changed it: of several that try, one succeeds.

    The content must name its writer, or count: where it is the same as before, so may be its generation. A write
    whose answer was lost is tried again, and may then be refused because of itself: where that matters, read who
    has written.

    Args:
        place: The file or object.
        data: The whole content.
        generation: As `read_versioned` has returned it; None: it must not exist.

    Returns:
        The new generation; None where the condition does not hold and nothing was written.
    """
    if isinstance(place, BucketPath):
        return place.store.write_if(place.key, data, generation)
    place.parent.mkdir(parents=True, exist_ok=True)
    if generation is None:
        return _create(place, data)
    with open(place.parent / f".{place.name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = read_versioned(place)
        if before is None or before.generation != generation:
            return None
        with files.atomic_open(place, "wb") as target:
            target.write(data)
    return hashlib.sha256(data).digest()


def list_files(place: Place) -> dict[str, StoredObject]:
    """Return all files or objects below a place by their relative names, ascending; links are not followed.

    Of a file on a disk the size alone is stated.
    """
    if isinstance(place, BucketPath):
        prefix = place.prefix
        return {key.removeprefix(prefix): value for key, value in place.store.list_objects(prefix).items()}
    found = {}
    for base, _, names in os.walk(place):
        for name in names:
            path = pathlib.Path(base) / name
            found[path.relative_to(place).as_posix()] = StoredObject(path.lstat().st_size, "", "")
    return {name: found[name] for name in sorted(found)}


def remove_tree(place: Place) -> None:
    """Delete a folder, or all objects below a place; a missing one is no error."""
    if isinstance(place, BucketPath):
        names = list_files(place)
        for name in names:
            (place / name).unlink(missing_ok=True)
        if place.scheme == "s3":
            # Stores on file systems keep folders without objects, by keys that end with a slash; S3 has none such.
            folders = {
                f"{parent}/" for name in names for parent in pathlib.PurePosixPath(place.key, name).parents
            }
            for key in sorted((key for key in folders if key.startswith(place.prefix)), reverse=True):
                place.store.delete(key)
    elif place.is_dir():
        shutil.rmtree(place)


def free_bytes(place: Place) -> float:
    """Return the free space of the disk of a folder, which exists; of a bucket infinity."""
    return math.inf if isinstance(place, BucketPath) else shutil.disk_usage(place).free


def check_writable(place: Place) -> None:
    """Raise OSError where no file can be written below a place; leaves none."""
    if isinstance(place, BucketPath):
        probe = place / f".probe-{os.urandom(8).hex()}"
        probe.write_bytes(b"x")
        probe.unlink(missing_ok=True)
        return
    with tempfile.TemporaryFile(dir=place):
        pass


@contextlib.contextmanager
def written_folder(place: Place) -> Iterator[pathlib.Path]:
    """Yield a folder for files that are written by path: `place` itself, or one whose files are uploaded at the end.

    Nothing is uploaded where the block raises.
    """
    if not isinstance(place, BucketPath):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="tlx-upload-") as temporary:
        folder = pathlib.Path(temporary)
        yield folder
        for name in list_files(folder):
            write(place / name, (folder / name).read_bytes())


@contextlib.contextmanager
def written_file(place: Place) -> Iterator[pathlib.Path]:
    """Yield the path of a file that is written by path: `place` itself, or one that is uploaded at the end.

    Nothing is uploaded where the block raises.
    """
    if not isinstance(place, BucketPath):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="tlx-upload-") as temporary:
        path = pathlib.Path(temporary, place.name)
        yield path
        write(place, path.read_bytes())


def fetched_folder(place: Place) -> pathlib.Path:
    """Return a folder with the files of a place: itself, or a copy in the user's cache, made when it is first wanted.

    The copy is of what the store states now: files that were replaced are fetched again.
    """
    if not isinstance(place, BucketPath):
        return place
    stated = list_files(place)
    name = files.sha256_json([str(place), {name: list(entry) for name, entry in stated.items()}])
    folder = files.cache_folder() / "fetched" / name[:32]
    if not folder.is_dir():
        try:
            with files.new_folder(folder) as temporary:
                for file in stated:
                    target = temporary / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes((place / file).read_bytes())
        except (OSError, UserError):
            # Another process may have fetched it meanwhile: then its copy serves.
            if not folder.is_dir():
                raise
    return folder


def _create(path: pathlib.Path, data: bytes) -> bytes | None:
    temporary = path.parent / f".{path.name}.{os.urandom(8).hex()}"
    try:
        with open(temporary, "xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        # A link fails where there is a file, on NFS too, and appears with all of its content.
        os.link(temporary, path)
    except FileExistsError:
        return None
    finally:
        temporary.unlink(missing_ok=True)
    files.sync_folder(path.parent)
    return hashlib.sha256(data).digest()
