"""run and status: a plan's runs on some backend, from wherever they stand to the end, nothing twice.

Backends: "local" (processes of this machine), "command:TEMPLATE" (any shell command that trains {config}
into {workdir} and returns when it has ended), "launch:CLUSTER FLAGS" (`tlx launch`: each run is a job of
its own, and the end is read from its directory, which this machine must see), "simulate[:NOISE]" (losses
drawn from a law, in no time).
"""

import math
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tlx.base.errors import LEASE, NUMERICS, RETRYABLE, ConfigError, one_of
from tlx.base.files import write_json
from tlx.launch.clusters import CLUSTERS
from tlx.scaling.ledger import Ledger
from tlx.scaling.outcome import ended, result_of
from tlx.scaling.simulation import BESIROGLU, draw
from tlx.training.journal import read_lines

# A run that ends in a way that may pass is started so often in a row without a new checkpoint in between.
_MOST_STARTS = 5

_CONFIG_FILE = '''"""A planned run of a ladder; written by `tlx scale run`."""

import json
import pathlib

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    return ConfigDict(json.loads(pathlib.Path(__file__).with_name("planned.json").read_text()))
'''


def run(
    plan: Mapping[str, Any] | None,
    folder: str | os.PathLike,
    backend: str = "local",
    *,
    parallel: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Brings every run of a plan to its end; returns the ledger's lines. plan: None goes on with FOLDER's.

    Finished runs are left alone and interrupted ones go on from their checkpoints. A run that diverges is
    recorded, and tried once more with half the learning rate. Raises LeaseError where another process does
    the same at this time.
    """
    ledger = Ledger(folder)
    with ledger.writer():
        if plan is not None:
            ledger.start(plan)
        kind, _, detail = backend.partition(":")
        if kind == "simulate":
            _simulate(ledger, float(detail or 0.002))
        elif kind in _TEMPLATES:
            _Processes(ledger, _TEMPLATES[kind](detail), max(1, parallel), say).run()
        else:
            raise ConfigError(one_of("backend", backend, (*_TEMPLATES, "simulate[:NOISE]")))
    return ledger.lines()


def _command(template: str) -> str:
    if "{config}" not in template:
        raise ConfigError("backend command:TEMPLATE needs {config}, and {workdir}, in its template")
    return template


def _launch(detail: str) -> str:
    """A template that hands each run to `tlx launch` and waits for it."""
    cluster, *flags = shlex.split(detail) or [""]
    if cluster not in CLUSTERS:
        raise ConfigError(one_of("backend launch:CLUSTER", cluster, CLUSTERS))
    given = shlex.join(flags).replace("{", "{{").replace("}", "}}")
    python = f"{shlex.quote(sys.executable)} -m"
    return (
        f"exec {python} tlx.scaling.wait_for_cluster {{workdir}} {python} tlx launch {cluster} "
        f"--config={{config}} --name=ladder-{{run}} --workdir={{workdir}} {given}"
    )


# What starts a run, with {config}, {workdir} and others to be filled in; "": `tlx train` on this machine.
_TEMPLATES = {"local": lambda detail: "", "command": _command, "launch": _launch}


def status(folder: str | os.PathLike) -> dict[str, Any]:
    """What stands in a ladder's folder: {"done", "failed", "left", "seconds_left", "runs": [...]}.

    seconds_left is by the speed of the finished and running runs, one after the other; None before there
    is one.
    """
    ledger = Ledger(folder)
    rows, seconds, steps_flops, left = [], 0.0, 0.0, 0.0
    for row in ledger.rows():
        progress = _progress(ledger.run_folder(row), row)
        state = row.get("status") or ("started" if progress["step"] else "waiting")
        step = row["steps"] if state == "done" else max(progress["step"], row.get("from_step", 0))
        share = step / row["steps"]
        if progress["seconds"] and state in ("done", "started"):
            made = max(0.0, share - row.get("from_step", 0) / row["steps"])
            seconds, steps_flops = seconds + made * progress["seconds"], steps_flops + made * row["flops"]
        if state in ("started", "waiting"):
            left += (1 - share) * row["flops"]
        shown = {
            name: row.get(name) for name in ("run", "budget", "N", "D", "lr", "seed", "loss", "retry_of")
        }
        rows.append(shown | {"status": state, "step": step, "steps": row["steps"]})
    count = {s: sum(r["status"] == s for r in rows) for s in ("done", "diverged", "failed")}
    eta = left * seconds / steps_flops if steps_flops else (None if left else 0.0)
    waiting = len(rows) - sum(count.values())
    return count | {"left": waiting, "seconds_left": eta, "runs": rows}


class _Processes:
    """Runs of a plan as processes, `parallel` at once."""

    def __init__(self, ledger: Ledger, template: str, parallel: int, say: Callable[[str], None]):
        self.ledger, self.template, self.parallel, self.say = ledger, template, parallel, say
        self.running: dict[str, tuple[subprocess.Popen, dict[str, Any]]] = {}
        self.starts: dict[str, int] = {}  # since the last new checkpoint
        self.stood: dict[str, int] = {}
        self.not_before: dict[str, float] = {}

    def run(self) -> None:
        try:
            while True:
                self._collect()
                waiting = self._waiting()
                if not waiting and not self.running:
                    return
                for row in waiting[: self.parallel - len(self.running)]:
                    if self.not_before.get(row["run"], 0) <= time.monotonic():
                        self._start(row)
                time.sleep(0.2)
        finally:
            for process, _ in self.running.values():
                process.terminate()

    def _waiting(self) -> list[dict[str, Any]]:
        """Runs without an end, long ones first; branches when their trunk has got so far, or has ended."""
        rows = self.ledger.rows()
        ended = {row["run"] for row in rows if "status" in row}
        waiting = [row for row in rows if row["run"] not in ended and row["run"] not in self.running]
        ready = [row for row in waiting if row.get("trunk") in (None, *ended) or self._root(row) is not None]
        return sorted(ready, key=lambda row: -row["flops"])

    def _root(self, row: Mapping[str, Any]) -> pathlib.Path | None:
        """The trunk's checkpoint that a branch starts from, where there is one."""
        if "trunk" not in row:
            return None
        from tlx.checkpoint.steps import is_complete

        trunk = self.ledger.run_folder({"run": row["trunk"]})
        folder = trunk / "checkpoints" / str(row["from_step"])
        return folder if is_complete(folder) else None

    def _start(self, row: dict[str, Any]) -> None:
        workdir = self.ledger.run_folder(row)
        workdir.mkdir(parents=True, exist_ok=True)
        if (result := result_of(workdir, row["steps"])) is not None and ended(workdir):
            return self._end(row, 0, result)
        root = self._root(row)
        if root is not None and not _checkpointed(workdir):
            _graft(root, workdir / "checkpoints")
        write_json(workdir / "planned.json", row["config"])
        (workdir / "planned.py").write_text(_CONFIG_FILE)
        config = workdir / "planned.py"
        words = [sys.executable, "-m", "tlx", "train", f"--config={config}", f"--workdir={workdir}"]
        if self.template:
            fields = {"config": shlex.quote(str(config)), "workdir": shlex.quote(str(workdir))}
            fields |= {name: row[name] for name in ("run", "memory_bytes", "flops")}
            words = ["bash", "-c", self.template.format(**fields)]
        with open(workdir / "log.txt", "a", encoding="utf-8") as log:
            process = subprocess.Popen(_dying_with_us(words), stdout=log, stderr=log)
        self.running[row["run"]] = (process, row)
        stands, stood = _checkpointed(workdir), self.stood.get(row["run"], -1)
        self.starts[row["run"]] = 1 if stands > stood else self.starts[row["run"]] + 1
        self.stood[row["run"]] = stands
        self.ledger.event("start", run=row["run"])
        self.say(f"{row['run']}  started: {_about(row)}")

    def _collect(self) -> None:
        for run, (process, row) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[run]
            self.ledger.event("exit", run=run, code=code)
            self._end(row, code, result_of(self.ledger.run_folder(row), row["steps"]))

    def _end(self, row: dict[str, Any], code: int, result: dict[str, Any] | None) -> None:
        """Records what a process came to, or lets it be started again."""
        code = 128 - code if code < 0 else code
        if code == 0 and result is not None:
            bad = result["loss"] is None or not math.isfinite(result["loss"])
            return self._record(row, "diverged" if bad else "done", result)
        if code == NUMERICS:
            return self._record(row, "diverged", {"loss": None, "exit": code})
        if (code in RETRYABLE or code == LEASE) and self.starts[row["run"]] < _MOST_STARTS:
            self.not_before[row["run"]] = time.monotonic() + (20.0 if code == LEASE else 1.0)
            return None
        return self._record(row, "failed", {"loss": None, "exit": code})

    def _record(self, row: dict[str, Any], status: str, result: Mapping[str, Any]) -> None:
        if status == "diverged" and "retry_of" not in row:
            self.ledger.event("retry", run=row["run"], lr=row["lr"] / 2)
        self.ledger.record(row, status, result)
        loss = result.get("loss")
        shown = f"loss {loss:.4f}" if loss is not None else f"exit {result.get('exit')}"
        where = "" if status != "failed" else f", see {self.ledger.run_folder(row) / 'log.txt'}"
        self.say(f"{row['run']}  {status}: {_about(row)}, {shown}{where}")


def _graft(root: pathlib.Path, checkpoints: pathlib.Path) -> None:
    """Copies a checkpoint to a run that goes on from it; whole or not at all, whenever it is killed."""
    half = checkpoints.with_name("grafted")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(root, half)
    checkpoints.mkdir(exist_ok=True)
    os.rename(half, checkpoints / root.name)


def _checkpointed(workdir: pathlib.Path) -> int:
    """Step of the newest checkpoint; 0 before there is one."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def _about(row: Mapping[str, Any]) -> str:
    return f"N {row['N']:,}, D {row['D']:,}, {row['flops']:.3g} FLOP, lr {row['lr']:.3g}, seed {row['seed']}"


# The kernel ends the process when its parent (argument 1) has ended; PR_SET_PDEATHSIG, SIGKILL.
_BOUND = """import ctypes, os, sys
ctypes.CDLL("libc.so.6").prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
sys.exit(137)"""


def _dying_with_us(words: list[str]) -> list[str]:
    """A killed driver leaves no process behind that would hold a run's directory (Linux)."""
    if sys.platform != "linux":
        return words
    return [sys.executable, "-I", "-c", _BOUND, str(os.getpid()), *words]


def _simulate(ledger: Ledger, noise: float) -> None:
    """Losses of Besiroglu's law, with a noise that depends on the run's id alone."""
    for row in ledger.rows():
        if "status" in row:
            continue
        table = {name: np.array([float(row[name])]) for name in ("N", "D")}
        seed = int(row["run"], 16) % 2**32
        loss = draw(table, BESIROGLU, noise, seed=seed)["loss"][0]
        ledger.record(row, "done", {"loss": float(loss), "D_unique": row["D"]})


def _progress(workdir: pathlib.Path, row: Mapping[str, Any]) -> dict[str, float]:
    """Last step logged, and the seconds that all steps take at its speed."""
    step, seconds = 0, 0.0
    for line in read_lines(workdir / "metrics.jsonl"):
        if line["kind"] == "train":
            step = line["step"]
            if line.get("tokens_per_s"):
                seconds = row["steps"] * row["batch_tokens"] / line["tokens_per_s"]
    return {"step": step, "seconds": seconds}
