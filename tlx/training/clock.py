"""Time of a run: seconds by phase, and the current phase."""

import contextlib
import time
from collections.abc import Callable, Iterator


class Clock:
    """Seconds by phase; `with clock("data"): ...` adds to one. A phase inside another one interrupts it.

    Phases in use: prepare, data, step, compile, evaluate, checkpoint, log, summary. `current` is the phase
    that a watchdog names.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self.seconds: dict[str, float] = {}
        self.current = "start"
        self._now = now
        self._since = now()

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time within the context as `phase`."""
        outer = self._switch(phase)
        try:
            yield
        finally:
            self._switch(outer)

    def training(self) -> float:
        """Return the seconds spent on batches and steps, by which throughput is measured."""
        self._switch(self.current)
        return self.seconds.get("data", 0.0) + self.seconds.get("step", 0.0)

    def silent(self) -> float:
        """Return the seconds since a phase was last entered or left; another thread may ask."""
        return self._now() - self._since

    def _switch(self, phase: str) -> str:
        """Enter `phase`; returns the phase that was left."""
        outer = self.current
        now = self._now()
        self.seconds[outer] = self.seconds.get(outer, 0.0) + now - self._since
        self.current = phase
        self._since = now
        return outer
