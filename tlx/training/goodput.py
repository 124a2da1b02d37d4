"""goodput.jsonl: where the seconds of a run's life went, written while it runs so that a kill loses little.

A life is one start of the run's processes. Its lines are cumulative: the last one has all its seconds by phase
(clock.py), which add up to its length. training/lives.py sums the lives of a run.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tlx.training.clock import Clock
from tlx.training.host_times import HostTimes
from tlx.training.journal import Journal

# Longest time between two lines: a compilation or a restore of minutes may be killed too.
BEAT_SECONDS = 20.0


class Goodput:
    """Context that writes the seconds of this life from its beginning on; a hook of the loop.

    Lines are written at the beginning, at each line of metrics.jsonl, when there was none for BEAT_SECONDS, and at
    the end. All processes call the hook: with several, it compares their times.

    Args:
        clock: the run's clock.
        journal: gets the lines; silent on all processes but the first.
        hosts: name of each process' host.
        is_lost: whether the run's directory is another process' by now: nothing is written then.
    """

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        hosts: Sequence[str],
        is_lost: Callable[[], bool] = lambda: False,
    ):
        self._clock = clock
        self._journal = journal
        self._is_lost = is_lost
        self._life = round(time.time() - sum(clock.read().values()), 3)
        self._times = HostTimes(hosts) if len(hosts) > 1 else None
        self._every = 1
        self._begin: int | None = None
        self._step: int | None = None
        self._compared: dict[str, Any] = {"processes": len(hosts)}
        self._written = time.monotonic()
        # The thread and the loop write lines of the same file.
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="goodput", daemon=True)

    def begin(self, step: int, every: int) -> None:
        """Note the step that this life goes on from, and the number of steps between lines."""
        self._begin = step
        self._step = step
        self._every = every
        self._write()

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        """Write a line where metrics.jsonl has one."""
        self._step = step
        if step % self._every:
            return
        if self._times is not None:
            compared = self._times.exchange(step, self._clock.read())
            if compared is not None:
                self._compared = compared
        self._write()

    def __enter__(self) -> "Goodput":
        self._write()
        if not self._journal.silent:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._write()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS / 4):
            if time.monotonic() - self._written >= BEAT_SECONDS:
                self._write()

    def _write(self) -> None:
        if self._is_lost():
            return
        with self._lock:
            self._written = time.monotonic()
            seconds = {phase: round(value, 3) for phase, value in self._clock.read().items()}
            self._journal.goodput(
                life=self._life, begin=self._begin, step=self._step, seconds=seconds, **self._compared
            )
