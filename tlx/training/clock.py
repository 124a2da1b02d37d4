"""Time of a run: seconds by phase, and the current phase."""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator

# Phases of a run, in the order in which they come first.
PHASES = (
    "start",
    "prepare",
    "restore",
    "compile",
    "data",
    "step",
    "evaluate",
    "checkpoint",
    "log",
    "hooks",
    "summary",
)


class Clock:
    """Seconds by phase; `with clock("data"): ...` adds to one. A phase inside another one interrupts it.

    `current` is the phase that a watchdog names.

    Args:
        now: returns seconds.
        age: seconds that count as the phase start already, such as those since the process was started.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter, age: float = 0.0):
        self.seconds: dict[str, float] = {}
        self.current = "start"
        self._now = now
        self._since = now()
        if age:
            self.seconds["start"] = age

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

    def read(self) -> dict[str, float]:
        """Return the seconds by phase, the current one up to now; another thread may ask."""
        while True:
            current = self.current
            since = self._since
            seconds = dict(self.seconds)
            now = self._now()
            # A phase that ended meanwhile would be counted twice, or not at all.
            if current == self.current and since == self._since:
                seconds[current] = seconds.get(current, 0.0) + now - since
                return seconds

    def _switch(self, phase: str) -> str:
        """Enter `phase`; returns the phase that was left."""
        outer = self.current
        now = self._now()
        self.seconds[outer] = self.seconds.get(outer, 0.0) + now - self._since
        self.current = phase
        self._since = now
        return outer


def process_age() -> float:
    """Return the seconds since this process was started; 0 where the system does not say."""
    try:
        # Field 22, counted from the end of the name, which may hold spaces and brackets.
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
