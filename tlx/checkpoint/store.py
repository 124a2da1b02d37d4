"""The only module that calls Orbax (v1): starts saves and loads parts of a checkpoint."""

import contextlib
import logging
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from tlx.base import tree as trees
from tlx.base.errors import ConfigError
from tlx.base.object_store import set_up_fsspec
from tlx.base.place import BucketPath, Place
from tlx.checkpoint import orbax_s3

# About the bytes of a file of arrays: each is hashed by one thread, and a core hashes 1.5 GB/s.
FILE_BYTES = 128 << 20
_QUIET = ("_SignalingThread.run() raised", "Sharding info not provided")


class _Repeats(logging.Filter):
    """A log filter that drops Orbax's tracebacks (150 lines) of errors that it also raises to the caller."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is kept."""
        return not any(text in record.getMessage() for text in _QUIET)


@contextlib.contextmanager
def _context(partial_load: bool = False):
    """Set Orbax up to commit by a marker file, and without compression (8% smaller, but half the speed)."""
    # Once per process: filters of a logger add up.
    absl = logging.getLogger("absl")
    if not any(isinstance(known, _Repeats) for known in absl.filters):
        absl.addFilter(_Repeats())
    context = ocp.Context()
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    context.array.saving.use_compression = False
    context.array.saving.ocdbt_target_data_file_size = FILE_BYTES
    context.pytree.loading.partial_load = partial_load
    with context:
        yield


def start_save(folder: Place, parts: dict[str, Any]) -> ocp.AsyncResponse:
    """Copy arrays to the host and start writing them; `.result()` of the response waits for the commit.

    All processes call this. The arrays may be donated or changed as soon as it returns.
    """
    with _context():
        return ocp.save_checkpointables_async(_orbax_path(folder), parts)


def load(folder: Place, parts: dict[str, Any], partial: bool = False) -> dict[str, Any]:
    """Load the named parts, each leaf with the sharding of its abstract leaf, or as numpy without one.

    Args:
        folder: Folder of the step.
        parts: Nested dicts of abstract leaves by name of the part.
        partial: Whether leaves of a part may be missing, which are then not read.

    Returns:
        The parts.
    """
    with _context(partial_load=partial):
        return ocp.load_checkpointables(_orbax_path(folder), jax.tree.map(_abstract, parts))


def load_leaf(folder: Place, part: str, path: str, like: Any) -> np.ndarray:
    """Load one leaf of a part as numpy; no other one is read.

    Args:
        folder: Folder of the step.
        part: Name of the part.
        path: Path of the leaf in it.
        like: Anything with its shape and dtype.

    Returns:
        The array.
    """
    wanted = {part: trees.unflatten({path: _abstract(like)})}
    with _context(partial_load=True):
        parts = ocp.load_checkpointables(_orbax_path(folder), wanted)
    return trees.flatten(parts[part])[path]


def check_scheme(place: Place) -> None:
    """Raise ConfigError where the installed Orbax cannot write arrays to a place."""
    if not isinstance(place, BucketPath):
        return
    if place.scheme == "s3":
        orbax_s3.check_version()
    elif place.scheme != "gs":
        raise ConfigError(f"{place}: checkpoints are written to a folder, gs:// or s3://")


def _orbax_path(folder: Place) -> Any:
    if not isinstance(folder, BucketPath):
        # Orbax declares epath.Path, and takes any pathlib.Path.
        return folder
    from etils import epath

    check_scheme(folder)
    set_up_fsspec(folder.scheme)
    if folder.scheme == "s3":
        orbax_s3.install()
    return epath.Path(str(folder))


def _abstract(leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        # An array of this shape that takes no memory.
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
