"""Decisions that all processes of a run take together.

Every process calls these functions, on the main thread and in the same order: they are collectives, which would
wait for ever for a process that does not. With one process each costs nothing.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils


def all_processes(ok: bool) -> bool:
    """Return whether `ok` holds on every process."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


def broadcast_from_first(value: int) -> int:
    """Return process 0's value, below 2**31; those of other processes are ignored."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))
