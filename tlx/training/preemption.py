"""Requests to stop or to save: the first signal saves at a step that all processes agree on, the second stops.

JAX's own `reached_preemption_sync_point` is not used: its notifier owns SIGTERM (so that a second one could
not stop the process at once), knows nothing of SIGINT, and does nothing without jax.distributed. Here every
process adds its flag to a sum over all devices, dispatched with each step and read `LAG` steps later. All
processes read the same number at the same step, so they agree by construction, and none waits for a result
that is not ready anyway. Saves by time (checkpoint.minutes) travel in the same sum: process 0's clock says when.
"""

import collections
import ctypes
import functools
import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Steps between sending a flag and reading the sum: what may be in flight without a stall.
LAG = 2
# A terminal and a parent process may both deliver the same request.
ECHO_SECONDS = 0.5
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("tlx")


class Preemption:
    """Context that catches SIGTERM and SIGINT; entered after jax.distributed is initialized.

    Signals are seen by a thread of its own, so that the second one, and the timer, work while the main thread
    is inside a compilation. Entered on another thread than the main one, it leaves signals alone, for Python
    handles them on the main thread only; `request` works all the same. Handlers are restored on exit.

    Args:
        grace_seconds: what the scheduler gives between its first signal and SIGKILL; None for no limit.
        margin_seconds: when so much of the grace is left and the context still lasts, training stops as if
            killed, and the last checkpoint stands.
        leave: ends the process at once, called with the exit status 128 + signal; None raises
            KeyboardInterrupt in the thread that entered the context, so that a notebook's kernel lives on.
    """

    def __init__(
        self,
        *,
        grace_seconds: float | None = None,
        margin_seconds: float = 5.0,
        leave: Callable[[int], None] | None = os._exit,
    ):
        self._allowed = None if grace_seconds is None else max(0.0, grace_seconds - margin_seconds)
        self._leave = leave
        self._why: str | None = None
        self._first: tuple[signal.Signals, float] | None = None
        self._deadline: float | None = None
        self._flags: collections.deque[jax.Array] = collections.deque()
        self._save_due = False
        self._save_interval: float | None = None
        self._saved_at = 0.0
        # Sums in flight whose request to save has been met by a later save.
        self._outdated = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._caller: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def why(self) -> str | None:
        """Name of the signal that asked this process to stop ("SIGTERM"); None without one."""
        return self._why

    def request(self, why: str) -> None:
        """Ask all processes to stop, as a signal would."""
        self._why = self._why or why

    @property
    def save_due(self) -> bool:
        """Whether a save by time is due since the last call of `agreed`: the same answer on all processes."""
        return self._save_due

    def start_save_timer(self, minutes: float) -> None:
        """Ask for a save whenever this time has passed since `saved` was called last, or this; 0: never."""
        self._save_interval = minutes * 60.0 or None
        self.saved()

    def saved(self) -> None:
        """Count the time to the next save from now on. Called by all processes, after the same step."""
        self._saved_at = time.monotonic()
        self._save_due = False
        self._outdated = len(self._flags)

    def agreed(self) -> bool:
        """Return whether to stop now: the same answer on all processes. Called by all, once after each step.

        With several processes a request is answered at most LAG + 1 steps later.
        """
        save_due = (
            self._save_interval is not None and time.monotonic() - self._saved_at >= self._save_interval
        )
        if jax.process_count() == 1:
            self._save_due = save_due
            return self._why is not None
        # One clock decides: by those of all hosts the first to be ahead would.
        save_due = save_due and jax.process_index() == 0
        # Dispatched at every step, request or not: a collective that only some processes enter would hang.
        self._flags.append(_sum_over_processes(self._why is not None, save_due))
        if len(self._flags) <= LAG:
            return False
        # Every process reads the sum of the same step, hence the same answer.
        sums = np.asarray(self._flags.popleft().addressable_data(0))
        stop = sums[0] > 0
        self._save_due = bool(sums[1] > 0) and not self._outdated
        self._outdated = max(0, self._outdated - 1)
        if stop and self._why is None:
            self._why = "another process was asked to stop"
        return bool(stop)

    def raise_in_caller(self, error: BaseException) -> None:
        """Raise `error` in the thread that entered the context; called from any other thread.

        In the main thread a system call that waits is interrupted. Another thread raises an error of the same
        type without a message, once it is back in Python code.
        """
        assert self._caller is not None and self._caller.ident is not None
        self._error = error
        if self._previous:
            # A real signal: it also wakes the thread from a call that waits, which a simulated one does not.
            signal.pthread_kill(self._caller.ident, signal.SIGINT)
            return
        thread = ctypes.c_ulong(self._caller.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(type(error)))

    def __enter__(self) -> "Preemption":
        self._caller = threading.current_thread()
        if self._caller is not threading.main_thread():
            return self
        # Python's handlers run between bytecodes of the main thread, which a compilation blocks for minutes;
        # the C handler writes to this socket at once.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        self._thread = threading.Thread(target=self._watch, name="preemption", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._previous:
            return
        # In a notebook the process lives on and needs its own SIGINT back.
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._writer.close()  # ends the thread
        self._thread.join()
        self._reader.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Python's handler: its C handler has already told the thread, and needs this one to do so."""
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        # Not select(): on process 0 of 1,000 hosts the coordinator holds the descriptors that it takes.
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            self._watch_signals(selector)

    def _watch_signals(self, selector: selectors.BaseSelector) -> None:
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not selector.select(left):
                return self._stop_at_once(f"not saved within {self._allowed:.0f} s")
            received = self._reader.recv(64)
            if not received:
                return None
            if self._error is not None:
                continue  # the signal of `raise_in_caller`, not a request
            for number in received:
                if number in SIGNALS and self._is_second(signal.Signals(number)):
                    return self._stop_at_once("second signal")

    def _is_second(self, received: signal.Signals) -> bool:
        """Note a signal; returns whether one came before (an echo of it through a parent does not count)."""
        now = time.monotonic()
        if self._first is not None:
            return now - self._first[1] > ECHO_SECONDS
        self._first = (received, now)
        # A reason that was given before, by `request`, stays.
        self._why = self._why or received.name
        log.warning("%s: saving a checkpoint, then leaving; once more to leave now", received.name)
        if self._allowed is not None:
            self._deadline = now + self._allowed
        return False

    def _stop_at_once(self, reason: str) -> None:
        assert self._first is not None
        log.warning("%s after %s: leaving now, the last checkpoint stands", reason, self._first[0].name)
        self._deadline = None
        if self._leave is None:
            self.raise_in_caller(KeyboardInterrupt())
        else:
            self._leave(128 + self._first[0])


def _sum_over_processes(*flags: bool) -> jax.Array:
    """Dispatch the sums of all processes' flags, int32 [flags]; does not wait for them."""
    spread, total = _summation()
    local = np.full((jax.local_device_count(), len(flags)), flags, np.int32)
    return total(jax.make_array_from_process_local_data(spread, local, (jax.device_count(), len(flags))))


@functools.cache
def _summation() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """The sharding of flags over all devices, and the compiled sum of them."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    replicated = NamedSharding(mesh, PartitionSpec())
    total = jax.jit(lambda flags: flags.sum(0), out_shardings=replicated)
    return NamedSharding(mesh, PartitionSpec("all")), total
