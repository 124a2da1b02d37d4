"""Supervision of several processes of one run on this machine: their output, signals and exits."""

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

from tlx.base.errors import PREEMPTED
from tlx.launch.exits import describe, shell_code

# After the first process has died, the others notice within JAX's heartbeat (parallel.process) and exit by
# themselves; after this time they are killed.
LINGER_SECONDS = 45.0


class ProcessExit(NamedTuple):
    """Exit of a process."""

    process: int
    """Number of the process."""
    code: int
    """Exit code as a shell gives it: 128 + signal if a signal ended the process."""


class Supervisor:
    """Starts processes together, forwards signals to them, and waits until all have ended."""

    def __init__(
        self,
        command: Sequence[str],
        logs: pathlib.Path,
        say: Callable[[str], None] | None = None,
        hide: Callable[[str], str] = str,
        linger: float = LINGER_SECONDS,
    ):
        """Prepare a supervisor.

        Args:
            command: Command of every process.
            logs: Folder in which each process has its log, such as p0.log.
            say: Called with every line, which starts with "p0 | "; None: print.
            hide: Applied to every line first, to remove secrets.
            linger: Seconds after the first failure at which the remaining processes are killed.
        """
        self._command = list(command)
        self._logs = logs
        self._linger = linger
        self._say = say or _print
        self._hide = hide
        self._running: dict[int, subprocess.Popen[str]] = {}
        # The signal by which this process was asked to stop; `wake` is set with it.
        self.received: signal.Signals | None = None
        self.wake = threading.Event()

    def run(self, environs: Sequence[Mapping[str, str]]) -> list[ProcessExit]:
        """Run one process per environment until all have ended; return their exits in order of time."""
        ended: queue.SimpleQueue[ProcessExit] = queue.SimpleQueue()
        readers = [self._start(i, environ, ended) for i, environ in enumerate(environs)]
        exits: list[ProcessExit] = []
        deadline = None
        while len(exits) < len(environs):
            try:
                # At most a second, so that signals of this process are handled meanwhile.
                timeout = 1.0
                if deadline is not None:
                    timeout = min(max(0.0, deadline - time.monotonic()), 1.0)
                exits.append(ended.get(timeout=timeout))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    self._kill_remaining(exits)
                    deadline = time.monotonic() + self._linger
                continue
            if exits[-1].code and deadline is None:
                self._report_first(exits[-1])
                deadline = time.monotonic() + self._linger
        for i, process in self._running.items():
            # Data workers of a process that was killed are still in its group.
            _kill_group(process)
            readers[i].join(timeout=5.0)
        self._running.clear()
        return exits

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Forward SIGTERM and SIGINT to the processes, which save and exit, while the context lasts."""
        handlers = {
            number: signal.signal(number, self._forward) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in handlers.items():
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
            # A terminal's ^C reaches the process once, forwarded by this one.
            start_new_session=True,
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
            for line in process.stdout or ():
                line = self._hide(line.rstrip("\n"))
                print(line, file=log, flush=True)
                self._say(f"p{i} | {line}")

    def _report_first(self, process_exit: ProcessExit) -> None:
        verb = "stopped" if process_exit.code == PREEMPTED else "died"
        log = self._logs / f"p{process_exit.process}.log"
        self._say(
            f"launch | process {process_exit.process} {verb} first ({describe(process_exit.code)}), log: {log}"
        )

    def _kill_remaining(self, exits: Sequence[ProcessExit]) -> None:
        for i in sorted(set(self._running) - {process_exit.process for process_exit in exits}):
            self._say(f"launch | process {i} did not end in {self._linger:.0f} s after it; killed")
            _kill_group(self._running[i])

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.wake.set()
        for process in list(self._running.values()):
            if process.poll() is None:
                process.send_signal(number)


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _print(line: str) -> None:
    print(line, file=sys.stdout, flush=True)
