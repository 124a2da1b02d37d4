"""BucketPath: the key of an object in a bucket, or a prefix of keys, with the methods of a path."""

import errno
import functools
import os
import pathlib
from collections.abc import Iterator

from tlx.base.object_store import ObjectStore, open_store


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

    def size(self) -> int:
        """Return the bytes of the object; FileNotFoundError where there is no such object."""
        stated = self.store.list_objects(self.key).get(self.key)
        if stated is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        return stated.size

    def read_bytes(self) -> bytes:
        """Return the content; FileNotFoundError where there is no such object."""
        result = self.store.read(self.key)
        if result is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        return result.data

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
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        self.store.delete(self.key)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a bucket has no folders.

        Args:
            mode: As pathlib's; not used.
            parents: As pathlib's; not used.
            exist_ok: As pathlib's; not used.
        """

    def iterdir(self) -> Iterator["BucketPath"]:
        """Return the places directly below, ascending by name."""
        return iter([self / name for name in self.store.list_names(self.prefix)])


def _normal(key: str) -> str:
    """Return a key without empty parts and "." ."""
    return "/".join(part for part in key.split("/") if part not in ("", "."))
