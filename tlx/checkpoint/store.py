"""The one place that speaks to Orbax (v1): starts a save, loads parts."""

import contextlib
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_QUIET = ("_SignalingThread.run() raised", "Sharding info not provided")


class _Repeats(logging.Filter):
    """Drops Orbax's tracebacks (some 150 lines) of errors that it raises to the caller as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in _QUIET)


@contextlib.contextmanager
def _context():
    """Commit by marker file on every file system; no compression (8% smaller, half the speed)."""
    absl = logging.getLogger("absl")
    if not any(isinstance(known, _Repeats) for known in absl.filters):
        absl.addFilter(_Repeats())
    context = ocp.Context()
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    context.array.saving.use_compression = False
    with context:
        yield


def start_save(folder: pathlib.Path, parts: dict[str, Any]) -> ocp.AsyncResponse:
    """Copies the arrays to the host and writes them in the background; `.result()` waits for the commit.

    The caller may donate or change the arrays as soon as this returns. Called by all processes.
    """
    with _context():
        return ocp.save_checkpointables_async(folder, parts)


def load(folder: pathlib.Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Loads the parts named, each leaf with the sharding of its abstract leaf, or as numpy without one."""
    with _context():
        return ocp.load_checkpointables(folder, jax.tree.map(_abstract, parts))


def _abstract(leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)  # an array without memory behind it
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
