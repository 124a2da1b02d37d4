"""Places: where runs, checkpoints, corpora and exports live, a folder of this machine or a prefix of a bucket.

A place is a pathlib.Path, or a BucketPath (gs://bucket/a, s3://bucket/a), which has the methods of a path that whole
objects can have. The functions of this module take both. Buckets have no folders, locks, renames and appends: what
needs one of them has another way there, such as a marker object or a conditional write.
"""

import fcntl
import functools
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import TypeAlias

from tlx.base import files
from tlx.base.errors import ConfigError, one_of
from tlx.base.object_store import (
    EXTRAS,
    ObjectStore,
    StoredObject,
    VersionedData,
    check_installed,
    open_store,
)

# pathlib writes gs://b as gs:/b: such a path is no folder "gs:" either.
_SCHEME = re.compile(r"(?:([a-zA-Z][a-zA-Z0-9+.-]*)://|(gs|s3):/(?!/))(.*)", re.DOTALL)
# Google's and Amazon's rules.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")


@functools.total_ordering
class BucketPath:
    """A key of a bucket, or the prefix of keys, written as SCHEME://BUCKET/KEY; has the methods of pathlib.Path.

    No os.PathLike: a function that knows files only must fail, and not create a folder "gs:".
    """

    def __init__(self, scheme: str, bucket: str, key: str = ""):
        self.scheme = scheme
        self.bucket = bucket
        self.key = _normal(key)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __lt__(self, other: "BucketPath") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str | os.PathLike) -> "BucketPath":
        text = os.fspath(name)
        # An absolute path would replace this one, as in pathlib: here it can only be a mistake.
        if text.startswith("/"):
            raise ValueError(f"{text!r} is no name below {self}")
        return BucketPath(self.scheme, self.bucket, f"{self.key}/{text}")

    @property
    def store(self) -> ObjectStore:
        """The bucket's objects."""
        return open_store(self.scheme, self.bucket)

    @property
    def prefix(self) -> str:
        """The beginning of the keys below this one."""
        return f"{self.key}/" if self.key else ""

    @property
    def name(self) -> str:
        """The last part of the key; of a whole bucket empty."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return pathlib.PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return pathlib.PurePosixPath(self.name).stem

    @property
    def parent(self) -> "BucketPath":
        """The place above; a bucket's is the bucket."""
        return BucketPath(self.scheme, self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "BucketPath":
        """Return the place of another name beside this one."""
        return self.parent / name

    def absolute(self) -> "BucketPath":
        """Return this place: there are no others."""
        return self

    def is_file(self) -> bool:
        """Return whether there is an object of this key."""
        # A range of no bytes: the content is not read.
        return bool(self.key) and self.store.read(self.key, 0, 0) is not None

    def is_dir(self) -> bool:
        """Return whether there are objects below this key."""
        return bool(self.store.list_names(self.prefix))

    def exists(self) -> bool:
        """Return whether there is an object of this key or below it."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Return the content; FileNotFoundError where there is no such object."""
        return read_range(self)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> int:
        """Write the whole object; return its size."""
        self.store.write(self.key, bytes(data))
        return len(data)

    def write_text(self, text: str, encoding: str = "utf-8") -> int:
        """Write the whole object as text."""
        return self.write_bytes(text.encode(encoding))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(2, "no such object", str(self))
        self.store.delete(self.key)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a bucket has no folders."""

    def iterdir(self) -> Iterator["BucketPath"]:
        """Return the places directly below, ascending by name."""
        return iter([self / name for name in self.store.list_names(self.prefix)])


Place: TypeAlias = pathlib.Path | BucketPath


def parse(text: str | os.PathLike | BucketPath) -> Place:
    """Return the place that a text names: an absolute path, or one of a bucket. Nothing is opened.

    Raises ConfigError for a scheme or a bucket's name that is none, and where the scheme's extra is not installed.
    """
    if isinstance(text, BucketPath):
        return text
    name = os.fspath(text)
    match = _SCHEME.fullmatch(name)
    if match is None:
        return pathlib.Path(name).absolute()
    scheme = (match[1] or match[2]).lower()
    if scheme == "file":
        return pathlib.Path("/" + match[3].lstrip("/")).absolute()
    if scheme not in EXTRAS:
        raise ConfigError(one_of("scheme of " + name, f"{scheme}://", ("gs://", "s3://", "a folder")))
    bucket, _, key = match[3].partition("/")
    if _BUCKET.fullmatch(bucket) is None:
        raise ConfigError(
            f"{name!r} names no bucket (3 to 63 of a-z 0-9 - _ .): write {scheme}://BUCKET/PATH"
        )
    if ".." in key.split("/"):
        raise ConfigError(f"{name!r} has '..' in it, which means nothing in a bucket")
    check_installed(scheme)
    return BucketPath(scheme, bucket, key)


def is_bucket(text: str | os.PathLike | BucketPath) -> bool:
    """Return whether a text names a place that is not a folder of this machine."""
    return isinstance(text, BucketPath) or isinstance(parse(text), BucketPath)


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
            raise FileNotFoundError(2, "no such object", str(place))
        return result.data
    with open(place, "rb") as handle:
        handle.seek(start)
        data = handle.read() if stop is None else handle.read(stop - start)
    if stop is not None and len(data) != stop - start:
        raise OSError(5, f"ends before byte {stop}", str(place))
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
        for name in list_files(place):
            (place / name).unlink(missing_ok=True)
    elif place.is_dir():
        shutil.rmtree(place)


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


def _normal(key: str) -> str:
    """Return a key without empty parts and "." ."""
    return "/".join(part for part in key.split("/") if part not in ("", "."))
