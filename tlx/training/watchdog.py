"""A watchdog: a process that makes no progress reports where it is stuck and stops.

A dead process is found by JAX's heartbeat. One that lives and waits (a hung disk, a peer that sleeps, a
collective that never ends) is found by nobody else, and would hold a whole pod until the job's time is up.
"""

import faulthandler
import io
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from tlx.base.errors import WATCHDOG, StallError
from tlx.training.clock import Clock

# Phases that may take this many times as long as the others.
LONG = {"compile": 6, "restore": 6, "evaluate": 6, "checkpoint": 6}
# Phases that may take any time: tokenising a corpus, the last figures.
ENDLESS = ("prepare", "summary")

# Seconds that a note of the stall may take.
NOTE_SECONDS = 2.0


class Watchdog:
    """A thread that watches the clock while the context lasts; a hook of the loop, for the step's number.

    When no phase has changed for `seconds`, phase, last step and the stacks of all threads go to `stream`,
    and the process exits with code 170, so that a launcher can start it again. The deadline is met to a few
    milliseconds: of processes that wait for each other the one that stopped first reports first.

    Args:
        clock: the run's clock, whose phases are signs of progress.
        seconds: longest time without a change of phase (train.stall_seconds); None watches nothing.
        process: index of this process, for the report.
        stream: where the report goes; stderr by default.
        leave: ends the process, called with the exit code 170.
        note: called with one line before the process ends, and given NOTE_SECONDS for it.
        raise_error: called with a StallError in place of `leave`, where the process is not the run's own (a
            notebook's kernel): raises it in the thread that trains.
    """

    def __init__(
        self,
        clock: Clock,
        seconds: float | None,
        process: int = 0,
        *,
        stream: IO[str] | None = None,
        leave: Callable[[int], None] = os._exit,
        note: Callable[[str], None] | None = None,
        raise_error: Callable[[BaseException], None] | None = None,
    ):
        self.step = 0
        self._clock = clock
        self._seconds = seconds
        self._who = f"process {process} ({socket.gethostname()} pid {os.getpid()})"
        self._stream = stream or sys.stderr
        self._leave = leave
        self._note = note
        self._raise_error = raise_error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        """Note the number of the last step."""
        self.step = step

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # Without a limit it was never started.
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        assert self._seconds is not None
        left = self._seconds
        # Woken more often than the deadline, since phases with longer limits begin and end meanwhile.
        while not self._stop.wait(min(max(left, 0.001), self._seconds / 4)):
            phase = self._clock.current
            silent = self._clock.silent()
            # These phases are longer than a step by nature; the limit is set for steps.
            left = self._seconds * LONG.get(phase, 1) - silent
            if phase in ENDLESS:
                left = self._seconds
            if left <= 0:
                return self._report(phase, silent)

    def _report(self, phase: str, silent: float) -> None:
        """Report where the process is stuck, then stop it."""
        stall = f"{self._who} made no progress for {silent:.0f} s, phase {phase}, last step {self.step}"
        end = f"leaving with {WATCHDOG}" if self._raise_error is None else "raising StallError"
        print(f"watchdog: {stall}; {end}; stacks of all threads:", file=self._stream, flush=True)
        self._dump_stacks()
        if self._note is not None:
            # On a thread of its own: the disk may be what hangs.
            writer = threading.Thread(target=self._note, args=(stall,), daemon=True)
            writer.start()
            writer.join(NOTE_SECONDS)
        if self._raise_error is not None:
            self._raise_error(StallError(f"{stall} (train.stall_seconds = {self._seconds})"))
        else:
            self._leave(WATCHDOG)

    def _dump_stacks(self) -> None:
        try:
            faulthandler.dump_traceback(self._stream, all_threads=True)
        except io.UnsupportedOperation:
            # A notebook's stderr is no file: the stacks go to the one that its kernel was started with.
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
