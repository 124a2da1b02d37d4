"""Meaning of each exit code and whether launchers restart the run: one table for all of them."""

import signal
from typing import NamedTuple

from tlx.base import errors

MEANINGS = {
    errors.OK: "done",
    1: "a defect: the log ends with a traceback",
    errors.USAGE: "wrong flags",
    errors.PREEMPTED: "asked to stop, and saved",
    errors.CONFIG: "a value of the config, or the data, cannot be used",
    errors.STORAGE: "the run directory cannot be written, or is full",
    errors.CHECKPOINT: "no checkpoint can be read, or none fits the model",
    errors.LEASE: "another run holds the directory",
    errors.NUMERICS: "training is no longer finite",
    errors.REPLICA_MISMATCH: "processes that must agree do not",
    errors.MEMORY: "the devices have too little memory",
    errors.NOT_IDENTIFIED: "the data does not identify the scaling law that was asked for",
    134: "aborted (SIGABRT), as when another process of the run has died",
    137: "killed (SIGKILL): out of memory on the host, or by somebody",
    139: "a crash in native code (SIGSEGV)",
    143: "ended by SIGTERM before it could save",
    errors.WATCHDOG: "no progress, or another process of the run is missing",
}


class RestartDecision(NamedTuple):
    """Whether to restart a run, and whether the restart counts against the limit."""

    again: bool
    """Restart the run."""
    counts: bool
    """The restart counts against `--restarts`."""


def next_move(code: int) -> RestartDecision:
    """Decide about a restart by the exit code of the process that ended first."""
    if code == errors.PREEMPTED:
        return RestartDecision(again=True, counts=False)
    return RestartDecision(again=code in errors.RETRYABLE, counts=True)


def shell_code(returncode: int) -> int:
    """Convert a Popen's return code to a shell's: 128 + signal if a signal ended the process."""
    return 128 - returncode if returncode < 0 else returncode


def describe(code: int) -> str:
    """Return a text such as "signal 9 (SIGKILL)" or "exit 77: processes that must agree do not"."""
    if 128 < code < 160:
        try:
            return f"signal {code - 128} ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"exit {code}: {MEANINGS.get(code, 'unknown to tlx')}"


def table() -> str:
    """Return the table as Markdown: exit code, meaning, whether launchers restart the run."""
    rows = ["| code | meaning | restarted |", "|---|---|---|"]
    for code, meaning in MEANINGS.items():
        decision = next_move(code)
        if code == errors.OK:
            answer = "-"
        elif not decision.again:
            answer = "no"
        else:
            answer = "yes" if decision.counts else "yes, free of charge"
        rows.append(f"| {code} | {meaning} | {answer} |")
    return "\n".join(rows)
