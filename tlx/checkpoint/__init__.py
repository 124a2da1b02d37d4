"""Checkpoints as trees of arrays: saved asynchronously, sealed by hashes, verified on reading."""

from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.config import CheckpointConfig
from tlx.checkpoint.lease import Lease
from tlx.checkpoint.reading import LoadedCheckpoint, load_params

__all__ = ["CheckpointConfig", "Checkpoints", "Lease", "LoadedCheckpoint", "load_params"]
