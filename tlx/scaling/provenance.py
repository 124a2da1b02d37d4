"""Provenance of a fit: the hash of its table, and the versions that made it."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping

import numpy as np

import tlx


def data_hash(runs: Mapping[str, np.ndarray]) -> str:
    """Return the hex sha256 of a table's names and values, whatever the order of its columns."""
    digest = hashlib.sha256()
    for name in sorted(runs):
        column = runs[name]
        digest.update(f"{name}\0{len(column)}\0".encode())
        if column.dtype == object:
            digest.update("\0".join(map(str, column)).encode())
        else:
            digest.update(np.ascontiguousarray(column, "<f8").tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python, tlx, NumPy and SciPy."""
    named = {"python": platform.python_version(), "tlx": tlx.__version__}
    return named | {name: importlib.metadata.version(name) for name in ("numpy", "scipy")}
