"""Checkpoints as trees of arrays: saved asynchronously, sealed by hashes, verified on reading."""

from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.config import CheckpointConfig
from tlx.checkpoint.lease import Lease
from tlx.checkpoint.reading import LoadedCheckpoint, StoredParam, load_params, open_params

__all__ = [
    "CheckpointConfig",
    "Checkpoints",
    "Lease",
    "LoadedCheckpoint",
    "StoredParam",
    "load_params",
    "open_params",
]
