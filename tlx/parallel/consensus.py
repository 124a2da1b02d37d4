"""Decisions that all processes of a run take together.

Every process calls these functions, on the main thread and in the same order: they are collectives, which would
wait for ever for a process that does not. With one process each costs nothing.
"""

import json
from typing import Any

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


def gather_json(value: Any) -> list[Any]:
    """Return the JSON value of each process, in their order, on all of them."""
    if jax.process_count() == 1:
        return [value]
    data = json.dumps(value).encode()
    # Arrays of one shape, as an all-gather needs; JSON does not mind the spaces.
    longest = int(np.max(multihost_utils.process_allgather(np.asarray(len(data), np.int32))))
    padded = np.frombuffer(data.ljust(longest), np.uint8)
    return [json.loads(row.tobytes()) for row in np.asarray(multihost_utils.process_allgather(padded))]
