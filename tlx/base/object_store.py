"""Objects of one bucket: whole and ranged reads, conditional writes, listings with what the store states of each.

TensorStore's key-value stores read and write, with the store's own credentials and bounded retries. Listings come
from fsspec (gcsfs, s3fs), for a key-value store lists keys alone.
"""

import errno
import functools
import importlib.util
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError, first_line

# For each scheme the extra of pyproject.toml, and the module of it that must be there; None: nothing is needed.
EXTRAS: dict[str, tuple[str, str] | None] = {
    "gs": ("gcs", "gcsfs"),
    "s3": ("s3", "s3fs"),
    "memory": None,
}

# A store that does not answer is given up after about a minute; TensorStore's own limit is half an hour.
_RETRIES = {"max_retries": 8, "initial_delay": "500ms", "max_delay": "16s"}

# TensorStore's generation of a key without a value, which a conditional write names to create.
_ABSENT = b"\x02"

# Where TensorStore reads the address of an emulator of Google Cloud Storage; gcsfs reads STORAGE_EMULATOR_HOST.
_GCS_ADDRESS = "TENSORSTORE_GCS_HTTP_URL"

# Errors that a retry of the whole command will not change: the caller may not, or the bucket is not there.
_DENIED = (
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "Forbidden",
    "Access Denied",
    "Unable to locate credentials",
)


class StoredObject(NamedTuple):
    """Size, checksum and generation of an object as its store states them, without a read of its content."""

    size: int
    """Bytes."""
    checksum: str
    """crc32c in base64 (gs), the ETag (s3); empty where the store states none."""
    generation: str
    """Generation number (gs); empty elsewhere, where the checksum is all that there is."""


class VersionedData(NamedTuple):
    """Content of an object, and the generation that a conditional write names."""

    data: bytes
    """The content."""
    generation: bytes
    """Opaque; changes with each write (on s3: with each other content)."""


class ObjectStore:
    """The objects of a bucket by key. Operations raise OSError with one line; a missing object is None or False."""

    def __init__(self, scheme: str, bucket: str):
        check_installed(scheme)
        self.scheme = scheme
        self.bucket = bucket
        self._lock = threading.Lock()
        self._files: Any = None
        self._store = self._done(bucket, lambda: _open(scheme, bucket))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> VersionedData | None:
        """Read an object; None where there is none.

        Args:
            key: Key of the object.
            start: First byte.
            stop: End of the range, at most the object's size; None: the whole rest.

        Returns:
            The bytes and the object's generation.
        """
        selected = None if start == 0 and stop is None else slice(start, stop)
        result = self._done(key, lambda: self._store.read(key, byte_range=selected))
        if result.state != "value":
            return None
        return VersionedData(result.value, result.stamp.generation)

    def write(self, key: str, data: bytes) -> bytes:
        """Write a whole object and return its generation: readers see the old one or the new one."""
        return self._done(key, lambda: self._store.write(key, data)).generation

    def write_if(self, key: str, data: bytes | None, generation: bytes | None) -> bytes | None:
        """Write an object where its generation is still `generation`; return the new one, None where it is not.

        Args:
            key: Key of the object.
            data: The content; None deletes the object.
            generation: Generation that it must have; None: there must be no object.
        """
        wanted = _ABSENT if generation is None else generation
        stamp = self._done(key, lambda: self._store.write(key, data, if_equal=wanted))
        return stamp.generation or None

    def delete(self, key: str) -> None:
        """Delete an object; a missing one is no error."""
        self._done(key, lambda: self._store.write(key, None))

    def list_objects(self, prefix: str) -> dict[str, StoredObject]:
        """Return all objects whose keys begin with `prefix`, by key, ascending."""
        if self.scheme == "memory":
            return {key: self._measured(key) for key in self._memory_keys(prefix)}
        folder = prefix.rpartition("/")[0]
        found = self._listed(folder, lambda files, root: files.find(root, detail=True, refresh=True))
        objects = {
            key: _stated(self.scheme, entry) for key, entry in found.items() if entry["type"] == "file"
        }
        return {key: objects[key] for key in sorted(objects) if key.startswith(prefix) and key[-1:] != "/"}

    def list_names(self, prefix: str) -> dict[str, bool]:
        """Return the names directly below a prefix that ends with "/" or is empty; True: other keys go on from it."""
        if self.scheme == "memory":
            names: dict[str, bool] = {}
            for key in self._memory_keys(prefix):
                head, below, _ = key.removeprefix(prefix).partition("/")
                names[head] = names.get(head, False) or bool(below)
            return names
        found = self._listed(
            prefix.rstrip("/"), lambda files, root: files.ls(root, detail=True, refresh=True)
        )
        relative = {key.removeprefix(prefix).strip("/"): entry["type"] for key, entry in found.items()}
        return {
            name: kind == "directory" for name, kind in sorted(relative.items()) if name and "/" not in name
        }

    def _memory_keys(self, prefix: str) -> list[str]:
        keys = self._done(prefix, lambda: self._store.list())
        return sorted(key.decode() for key in keys if key.decode().startswith(prefix))

    def _measured(self, key: str) -> StoredObject:
        value = self.read(key)
        return StoredObject(len(value.data) if value else 0, value.generation.hex() if value else "", "")

    def _listed(self, folder: str, listing: Callable[[Any, str], Any]) -> dict[str, Any]:
        """Return fsspec's entries by key within the bucket; none where there is nothing."""
        root = f"{self.bucket}/{folder}" if folder else self.bucket
        try:
            with self._lock:
                if self._files is None:
                    self._files = _file_system(self.scheme)
                found = listing(self._files, root)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise self._named(error, folder) from error
        entries = found.values() if isinstance(found, dict) else found
        return {entry["name"].removeprefix(f"{self.bucket}/"): entry for entry in entries}

    def _done(self, key: str, begin: Callable[[], Any]) -> Any:
        """Start an operation of TensorStore and wait for it."""
        try:
            return begin().result()
        except Exception as error:
            raise self._named(error, key) from error

    def _named(self, error: Exception, key: str) -> OSError:
        """Return a client's error as an OSError of one line that names the object."""
        first = first_line(error) or type(error).__name__
        text = first.partition(" [")[0][:300]
        number = errno.EACCES if any(word in str(error) for word in _DENIED) else errno.EIO
        return OSError(number, text, f"{self.scheme}://{self.bucket}/{key}")


def check_installed(scheme: str) -> None:
    """Raise ConfigError, naming the extra, where the packages of a scheme are not installed."""
    needed = EXTRAS[scheme]
    if needed is not None and importlib.util.find_spec(needed[1]) is None:
        raise ConfigError(f"{scheme}:// needs the extra {needed[0]!r}: pip install 'tlx-lm[{needed[0]}]'")


def open_store(scheme: str, bucket: str) -> ObjectStore:
    """Return the store of a bucket, one for each process."""
    # Clients hold threads and connections, which a forked process does not have.
    return _opened(scheme, bucket, os.getpid())


@functools.lru_cache(maxsize=16)
def _opened(scheme: str, bucket: str, process: int) -> ObjectStore:
    del process
    return ObjectStore(scheme, bucket)


def key_value_spec(scheme: str, bucket: str, path: str = "") -> dict[str, Any]:
    """Return TensorStore's spec of a bucket.

    The address and the region come from the variables of the environment that the other clients read.

    Args:
        scheme: "gs", "s3" or "memory".
        bucket: Name of the bucket.
        path: Prefix of all keys.

    Returns:
        The spec, as JSON.
    """
    if scheme == "memory":
        return {"driver": "memory", "path": f"{bucket}/{path}"}
    if scheme == "gs":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        if emulator:
            os.environ.setdefault(_GCS_ADDRESS, emulator if "//" in emulator else f"http://{emulator}")
            # gcsfs would ask Google for the kind of the bucket, with credentials that an emulator needs none of.
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        return {"driver": "gcs", "bucket": bucket, "path": path, "gcs_request_retries": _RETRIES}
    spec = {"driver": "s3", "bucket": bucket, "path": path, "s3_request_retries": _RETRIES}
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if address:
        spec["endpoint"] = address
        region = region or "us-east-1"
    if region:
        spec["aws_region"] = region
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        # The whole chain looks for files and for the metadata of a machine, and complains of each that is absent.
        spec["aws_credentials"] = {"type": "environment"}
    return spec


@functools.cache
def _memory() -> Any:
    """Return the context that all stores in memory share."""
    import tensorstore

    return tensorstore.Context()


def _open(scheme: str, bucket: str) -> Any:
    import tensorstore

    context = _memory() if scheme == "memory" else None
    return tensorstore.KvStore.open(key_value_spec(scheme, bucket), context=context)


def set_up_fsspec(scheme: str) -> None:
    """Let every fsspec client of a scheme, Orbax's too, reach TensorStore's store, and keep no listings.

    Other hosts write too, and this process also writes without fsspec: a listing that was kept is soon wrong.
    """
    import fsspec.config

    spec = key_value_spec(scheme, "any")
    settings: dict[str, Any] = {"use_listings_cache": False}
    if "endpoint" in spec:
        settings["endpoint_url"] = spec["endpoint"]
    if "aws_region" in spec:
        settings["client_kwargs"] = {"region_name": spec["aws_region"]}
    if scheme == "gs" and os.environ.get("STORAGE_EMULATOR_HOST"):
        # Else the metadata server of a machine in Google's cloud is waited for.
        settings["token"] = "anon"
    for protocol in ("gs", "gcs") if scheme == "gs" else (scheme,):
        fsspec.config.conf.setdefault(protocol, {}).update(settings)


def _file_system(scheme: str) -> Any:
    import fsspec

    set_up_fsspec(scheme)
    return fsspec.filesystem(scheme)


def _stated(scheme: str, entry: dict[str, Any]) -> StoredObject:
    """Return what an entry of fsspec's listing says."""
    if scheme == "gs":
        return StoredObject(int(entry["size"]), entry.get("crc32c") or "", str(entry.get("generation") or ""))
    return StoredObject(int(entry["size"]), str(entry.get("ETag") or "").strip('"'), "")
