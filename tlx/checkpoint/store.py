"""The only module that calls Orbax (v1): starts saves and loads parts of a checkpoint."""

import contextlib
import logging
import pathlib
from typing import Any, cast

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_QUIET = ("_SignalingThread.run() raised", "Sharding info not provided")


class _Repeats(logging.Filter):
    """A log filter that drops Orbax's tracebacks (150 lines) of errors that it also raises to the caller."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is kept."""
        return not any(text in record.getMessage() for text in _QUIET)


@contextlib.contextmanager
def _context():
    """Set Orbax up to commit by a marker file, and without compression (8% smaller, but half the speed)."""
    # Once per process: filters of a logger add up.
    absl = logging.getLogger("absl")
    if not any(isinstance(known, _Repeats) for known in absl.filters):
        absl.addFilter(_Repeats())
    context = ocp.Context()
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    context.array.saving.use_compression = False
    with context:
        yield


def start_save(folder: pathlib.Path, parts: dict[str, Any]) -> ocp.AsyncResponse:
    """Copy arrays to the host and start writing them; `.result()` of the response waits for the commit.

    All processes call this. The arrays may be donated or changed as soon as it returns.
    """
    with _context():
        # Orbax declares epath.Path, and takes any pathlib.Path.
        return ocp.save_checkpointables_async(cast(Any, folder), parts)


def load(folder: pathlib.Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Load the named parts, each leaf with the sharding of its abstract leaf, or as numpy without one."""
    with _context():
        return ocp.load_checkpointables(cast(Any, folder), jax.tree.map(_abstract, parts))


def _abstract(leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        # An array of this shape that takes no memory.
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
