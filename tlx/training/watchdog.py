"""A process that makes no progress says where it is stuck and ends, so that a launcher can start it again.

A dead process is found by JAX's heartbeat; one that lives and waits (a hung disk, a peer that sleeps, a
collective that never ends) is found by nobody else, and would hold a whole pod until the job's time is up.
"""

import faulthandler
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from tlx.base.errors import WATCHDOG
from tlx.training.clock import Clock

# Phases that may take this many times as long as the others; and those that may take for ever: tokenising
# a corpus, the last figures.
LONG = {"compile": 6, "evaluate": 6, "checkpoint": 6}
ENDLESS = ("prepare", "summary")


class Watchdog:
    """A thread that watches the clock while the context lasts; a hook of the loop, for the step's number.

    seconds: longest time without a change of phase; None watches nothing. When it has passed, phase, last
    step and the stacks of all threads go to `stream` and the process leaves with 170. The deadline is met to
    a few milliseconds: of processes that wait for each other the one that stopped first reports first.
    """

    def __init__(
        self,
        clock: Clock,
        seconds: float | None,
        process: int = 0,
        *,
        stream: IO[str] | None = None,
        leave: Callable[[int], None] = os._exit,
    ):
        self.step = 0
        self._clock, self._seconds = clock, seconds
        self._who = f"process {process} ({socket.gethostname()} pid {os.getpid()})"
        self._stream, self._leave = stream or sys.stderr, leave
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        self.step = step

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        assert self._seconds is not None
        left = self._seconds
        while not self._stop.wait(min(max(left, 0.001), self._seconds / 4)):
            phase, silent = self._clock.current, self._clock.silent()
            left = self._seconds * LONG.get(phase, 1) - silent
            if phase in ENDLESS:
                left = self._seconds
            if left <= 0:
                return self._bark(phase, silent)

    def _bark(self, phase: str, silent: float) -> None:
        print(
            f"watchdog: {self._who} made no progress for {silent:.0f} s, phase {phase}, "
            f"last step {self.step}; leaving with {WATCHDOG}; stacks of all threads:",
            file=self._stream,
            flush=True,
        )
        faulthandler.dump_traceback(self._stream, all_threads=True)
        self._leave(WATCHDOG)
