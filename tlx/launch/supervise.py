"""Several processes of one run on this machine: their lines with a prefix, the first to die by name."""

import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import NamedTuple

from tlx.launch.exits import describe, shell_code

# After the first death the others find out by themselves within JAX's heartbeat (parallel.process); later
# than this they are killed.
LINGER_SECONDS = 45.0


class ProcessExit(NamedTuple):
    """How a process ended; `code` as a shell gives it."""

    process: int
    code: int


class Supervisor:
    """Starts processes together, passes signals on to them, and waits until all have ended.

    command: the same for all. environs: one per process. Lines go to `say` as "p0 | line" and, whole, to
    logs/p0.log. hide: applied to every line.
    """

    def __init__(
        self,
        command: Sequence[str],
        logs: pathlib.Path,
        say: Callable[[str], None] | None = None,
        hide: Callable[[str], str] = str,
        linger: float = LINGER_SECONDS,
    ):
        self._command, self._logs, self._linger = list(command), logs, linger
        self._say, self._hide = say or _print, hide
        self._running: dict[int, subprocess.Popen] = {}
        self.asked: signal.Signals | None = None  # what this process was asked to end by
        self.wake = threading.Event()  # set when it was

    def run(self, environs: Sequence[Mapping[str, str]]) -> list[ProcessExit]:
        """All deaths, in the order in which they happened."""
        ended: queue.SimpleQueue[ProcessExit] = queue.SimpleQueue()
        readers = [self._start(i, environ, ended) for i, environ in enumerate(environs)]
        deaths: list[ProcessExit] = []
        deadline = None
        while len(deaths) < len(environs):
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                deaths.append(ended.get(timeout=1.0 if left is None else min(left, 1.0)))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    self._kill_rest(deaths)
                    deadline = time.monotonic() + self._linger
                continue
            if deaths[-1].code and deadline is None:
                self._tell(deaths[-1])
                deadline = time.monotonic() + self._linger
        for i, process in self._running.items():
            _kill_group(process)  # data workers of a process that was killed
            readers[i].join(timeout=5.0)
        self._running.clear()
        return deaths

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """While the context lasts SIGTERM and SIGINT go to the processes, which save and leave."""
        before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(
        self, i: int, environ: Mapping[str, str], ended: "queue.SimpleQueue[ProcessExit]"
    ) -> threading.Thread:
        process = subprocess.Popen(
            self._command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,  # a terminal's ^C comes once, through this process
        )
        self._running[i] = process
        self._say(f"launch | process {i} is pid {process.pid}")
        threading.Thread(
            target=lambda: ended.put(ProcessExit(i, shell_code(process.wait()))),
            name=f"wait-{i}",
            daemon=True,
        ).start()
        reader = threading.Thread(target=self._read, args=(i, process), name=f"read-{i}", daemon=True)
        reader.start()
        return reader

    def _read(self, i: int, process: subprocess.Popen) -> None:
        with open(self._logs / f"p{i}.log", "a", encoding="utf-8") as log:
            for line in process.stdout:
                line = self._hide(line.rstrip("\n"))
                print(line, file=log, flush=True)
                self._say(f"p{i} | {line}")

    def _tell(self, death: ProcessExit) -> None:
        verb = "stopped" if death.code == 42 else "died"
        log = self._logs / f"p{death.process}.log"
        self._say(f"launch | process {death.process} {verb} first ({describe(death.code)}), log: {log}")

    def _kill_rest(self, deaths: Sequence[ProcessExit]) -> None:
        for i in sorted(set(self._running) - {death.process for death in deaths}):
            self._say(f"launch | process {i} did not end in {self._linger:.0f} s after it; killed")
            _kill_group(self._running[i])

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        self.wake.set()
        for process in list(self._running.values()):
            if process.poll() is None:
                process.send_signal(number)


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _print(line: str) -> None:
    print(line, file=sys.stdout, flush=True)
