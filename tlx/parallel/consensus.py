"""Decisions that all processes of a run take together. Every function here is called by all of them, on the
main thread, in the same order; with one process each costs nothing."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def all_processes(ok: bool) -> bool:
    """Whether `ok` holds on every process."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


def broadcast_from_first(value: int) -> int:
    """Process 0's `value` (what the others pass is ignored); below 2**31."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))
