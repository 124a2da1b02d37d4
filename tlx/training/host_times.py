"""Times of all hosts of a run, compared where they are: the mean of each phase, and the slowest host.

In a step all hosts wait for the slowest, so that the length of a step is the same on each. What differs is a host's
own time, to get a batch and to write lines. A device that is slower than the others shows in no host's own time: all
wait for it alike.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx.training.clock import PHASES

# Phases of the loop in which a host waits for no other.
_OWN = ("data", "log")


class HostTimes:
    """Exchange of times between all processes, which call it at the same steps.

    Args:
        hosts: name of each process' host.
    """

    def __init__(self, hosts: Sequence[str]):
        self._hosts = hosts
        self._pending: tuple[int, jax.Array] | None = None
        self._step: int | None = None
        self._own = 0.0

    def exchange(self, step: int, seconds: Mapping[str, float]) -> dict[str, Any] | None:
        """Dispatch this process' times, and return the comparison of those of the call before.

        Args:
            step: steps done.
            seconds: seconds of this life by phase.

        Returns:
            "processes", "compared_at" (a step), "mean" (seconds by phase) and "slowest": the process whose own time
            for a step was longest since the call before. None at the first call.
        """
        own = sum(seconds.get(phase, 0.0) for phase in _OWN)
        steps = 0 if self._step is None else step - self._step
        per_step = (own - self._own) / steps if steps > 0 else 0.0
        before = self._pending
        # Read at the next call, when it is long done: no host waits for another here.
        self._pending = (step, _dispatch([*(seconds.get(phase, 0.0) for phase in PHASES), per_step]))
        self._step = step
        self._own = own
        return None if before is None else self._compare(*before)

    def _compare(self, step: int, gathered: jax.Array) -> dict[str, Any]:
        values = np.asarray(gathered.addressable_data(0)).tolist()
        *means, slowest, longest, median = values
        process = jax.devices()[int(slowest)].process_index
        return {
            "processes": len(self._hosts),
            "compared_at": step,
            "mean": {phase: round(mean, 3) for phase, mean in zip(PHASES, means, strict=True) if mean},
            "slowest": {
                "process": process,
                "host": self._hosts[process],
                "seconds_per_step": round(longest, 6),
                "median": round(median, 6),
            },
        }


def _dispatch(values: Sequence[float]) -> jax.Array:
    """Dispatch the comparison of all processes' values; does not wait for it."""
    spread, compare = _comparison()
    local = np.tile(np.asarray(values, np.float32), (jax.local_device_count(), 1))
    return compare(jax.make_array_from_process_local_data(spread, local, (jax.device_count(), len(values))))


@functools.cache
def _comparison() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """The sharding of values over all devices, and their compiled comparison."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    replicated = NamedSharding(mesh, PartitionSpec())

    def compare(rows: jax.Array) -> jax.Array:
        own = rows[:, -1]
        figures = [jnp.argmax(own), jnp.max(own), jnp.median(own)]
        return jnp.concatenate([rows[:, :-1].mean(0), jnp.stack([jnp.float32(x) for x in figures])])

    return NamedSharding(mesh, PartitionSpec("all")), jax.jit(compare, out_shardings=replicated)
