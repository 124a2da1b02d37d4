"""Where the time of a run goes: seconds by phase, and which phase it is in now."""

import contextlib
import time
from collections.abc import Callable, Iterator


class Clock:
    """`with clock("data"): ...` adds to the seconds of a phase. A phase inside another interrupts it.

    Phases in use: data, step, compile, evaluate, checkpoint, log. `current` is what a watchdog names.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self.seconds: dict[str, float] = {}
        self.current = "start"
        self._now = now
        self._since = now()

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        outer = self._switch(phase)
        try:
            yield
        finally:
            self._switch(outer)

    def training(self) -> float:
        """Seconds spent on batches and steps: what throughput is measured by."""
        self._switch(self.current)
        return self.seconds.get("data", 0.0) + self.seconds.get("step", 0.0)

    def silent(self) -> float:
        """Seconds since a phase was last entered or left; may be asked by another thread."""
        return self._now() - self._since

    def _switch(self, phase: str) -> str:
        outer, now = self.current, self._now()
        self.seconds[outer] = self.seconds.get(outer, 0.0) + now - self._since
        self.current, self._since = phase, now
        return outer
