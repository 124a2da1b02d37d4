"""Being asked to stop: the first signal saves at a step all processes agree on, the second leaves at once.

JAX's own `reached_preemption_sync_point` is not used: its notifier owns SIGTERM (so that a second one could
not leave at once), knows nothing of SIGINT, and does nothing without jax.distributed. Here every process adds
its flag to a sum over all devices, dispatched with each step and read `LAG` steps later: all processes read
the same number at the same step, so they agree by construction, and nobody waits for a result that is not
ready anyway.
"""

import collections
import functools
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LAG = 2  # steps between sending a flag and reading the sum: what may be in flight without a stall
ECHO_SECONDS = 0.5  # a terminal and a parent may both deliver the same request
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("tlx")


class Preemption:
    """Catches SIGTERM and SIGINT while the context lasts; entered on the main thread, after jax.distributed.

    grace_seconds: what the scheduler gives between its first signal and SIGKILL; when `margin_seconds` of it
        are left and the context still lasts, the process exits as if killed and the last checkpoint stands.
    leave: how the process ends at once (for tests); called with the exit status 128 + signal.

    Signals are seen by a thread of its own, so that the second one, and the timer, work while the main thread
    is inside a compilation.
    """

    def __init__(
        self,
        *,
        grace_seconds: float | None = None,
        margin_seconds: float = 5.0,
        leave: Callable[[int], None] = os._exit,
    ):
        self._allowed = None if grace_seconds is None else max(0.0, grace_seconds - margin_seconds)
        self._leave = leave
        self._why: str | None = None
        self._first: tuple[signal.Signals, float] | None = None
        self._deadline: float | None = None
        self._flags: collections.deque[jax.Array] = collections.deque()
        self._previous: dict[int, object] = {}

    @property
    def why(self) -> str | None:
        """What asked this process to stop ("SIGTERM"), None if nothing did."""
        return self._why

    def request(self, why: str) -> None:
        """Asks all processes to stop as a signal would."""
        self._why = self._why or why

    def agreed(self) -> bool:
        """Whether to stop now: the same answer on all processes. Called by all, once after each step.

        With several processes a request is answered at most LAG + 1 steps later.
        """
        if jax.process_count() == 1:
            return self._why is not None
        self._flags.append(_sum_over_processes(self._why is not None))
        if len(self._flags) <= LAG:
            return False
        stop = int(self._flags.popleft().addressable_data(0)) > 0
        if stop and self._why is None:
            self._why = "another process was asked to stop"
        return stop

    def __enter__(self) -> "Preemption":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, _do_nothing)
        self._thread = threading.Thread(target=self._watch, name="preemption", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._writer.close()  # ends the thread
        self._thread.join()
        self._reader.close()

    def _watch(self) -> None:
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not select.select([self._reader], [], [], left)[0]:
                return self._go(f"not saved within {self._allowed:.0f} s")
            received = self._reader.recv(64)
            if not received:
                return None
            for number in received:
                if number in SIGNALS and self._is_second(signal.Signals(number)):
                    return self._go("second signal")

    def _is_second(self, received: signal.Signals) -> bool:
        """Takes note of a signal; whether one came before (an echo of it through a parent does not count)."""
        now = time.monotonic()
        if self._first is not None:
            return now - self._first[1] > ECHO_SECONDS
        self._first = (received, now)
        self._why = self._why or received.name
        log.warning("%s: saving a checkpoint, then leaving; once more to leave now", received.name)
        if self._allowed is not None:
            self._deadline = now + self._allowed
        return False

    def _go(self, reason: str) -> None:
        assert self._first is not None
        log.warning("%s after %s: leaving now, the last checkpoint stands", reason, self._first[0].name)
        self._leave(128 + self._first[0])


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Python's C handler has already told the thread; a handler must be set for it to do so."""


def _sum_over_processes(flag: bool) -> jax.Array:
    """Dispatches the sum of all processes' flags; does not wait for it."""
    spread, total = _summation()
    local = np.full(jax.local_device_count(), flag, np.int32)
    return total(jax.make_array_from_process_local_data(spread, local, (jax.device_count(),)))


@functools.cache
def _summation() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """How flags lie on the devices, and the compiled sum of them."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    whole = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("all")), jax.jit(lambda flags: flags.sum(), out_shardings=whole)
