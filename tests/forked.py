"""`tlx` processes that begin as forks of one in which everything is imported: that is a third of what a start costs.

A fork is a process of its own with its own pid, backend, threads and signal handlers, and it leads a process group.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from tests.cli import tiny


class ForkedProcess:
    """A process of `Forks`, with the names of subprocess.Popen.

    Args:
        pid: Its id, which is that of its group too.
        output: File that its stdout and stderr go to.
    """

    def __init__(self, pid: int, output: pathlib.Path):
        self.pid = pid
        self.returncode: int | None = None
        self._output = output
        self._ended = threading.Event()

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._output.read_text(errors="replace")

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self.returncode

    def wait(self, timeout: float) -> None:
        """Wait for its end; AssertionError after `timeout` seconds."""
        assert self._ended.wait(timeout), f"process {self.pid} runs after {timeout:.0f} s:\n{self.output}"

    def kill(self) -> None:
        """End it with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()


class Forks:
    """A context in which `tlx` processes of one device each are started as forks of one server."""

    def __enter__(self) -> "Forks":
        self._server = subprocess.Popen(
            [sys.executable, "-c", "from tests import forked; forked.serve()"],
            cwd=tiny.ROOT,
            env={**os.environ, "PYTHONPATH": str(tiny.ROOT), "JAX_NUM_CPU_DEVICES": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._pids: list[int] = []
        self._has_begun = threading.Condition()
        self._processes: dict[int, ForkedProcess] = {}
        self._ends: dict[int, int] = {}
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._server.kill()
        self._server.wait()

    def tlx(self, *words: str, output: pathlib.Path, **environ: str) -> ForkedProcess:
        """Start `tlx WORDS`.

        Args:
            words: Words of the command line.
            output: File for its stdout and stderr.
            environ: Further variables of its environment.

        Returns:
            The process.
        """
        output.write_text("")
        request = {"words": list(map(str, words)), "output": str(output), "environ": environ}
        with self._has_begun:
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            assert self._has_begun.wait_for(lambda: self._pids, timeout=300), "the server does not answer"
            pid = self._pids.pop()
            process = self._processes[pid] = ForkedProcess(pid, output)
            if pid in self._ends:
                process._end(self._ends[pid])
        return process

    def _read(self) -> None:
        """Take the server's messages: a process has begun, or has ended."""
        assert self._server.stdout is not None
        for line in self._server.stdout:
            message = json.loads(line)
            pid = message["pid"]
            with self._has_begun:
                if "code" not in message:
                    self._pids.append(pid)
                    self._has_begun.notify_all()
                elif pid in self._processes:
                    self._processes[pid]._end(message["code"])
                else:
                    self._ends[pid] = message["code"]


def serve() -> None:
    """Fork for each line of stdin, and say on stdout which processes have begun and ended."""
    import tlx.cli.train  # noqa: F401
    import tlx.run.assemble
    import tlx.trainer.pretrain  # noqa: F401

    answers = os.fdopen(os.dup(1), "w", buffering=1)

    def tell_ends(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
                answers.write(json.dumps({"pid": ended[0], "code": code}) + "\n")

    for line in sys.stdin:
        request = json.loads(line)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if pid == 0:
            answers.close()
            _run(**request)
        answers.write(json.dumps({"pid": pid}) + "\n")
        signal.signal(signal.SIGCHLD, tell_ends)
        tell_ends()


def _run(words: list[str], output: str, environ: dict[str, str]) -> None:
    """Become the process that was asked for."""
    import jax

    from tlx import cli

    os.setsid()
    os.environ.update(environ)
    # JAX has read its variables in the process that was forked.
    jax.config.update("jax_num_cpu_devices", int(os.environ["JAX_NUM_CPU_DEVICES"]))
    target = os.open(output, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.exit(cli.main(words))


def wait_for_group(group: int, seconds: float) -> None:
    """Wait until no process of a group is left; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, f"processes of the group {group} are left after {seconds:.0f} s"
        time.sleep(0.05)
