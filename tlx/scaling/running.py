"""run and status: trains a plan's runs on a backend, from wherever they stand to the end, nothing twice.

Backends: "local" (processes of this machine), "command:TEMPLATE" (any shell command that trains {config} into
{workdir} and returns when it has ended), "launch:CLUSTER FLAGS" (`tlx launch`: each run is a job of its own,
and its end is read from its directory, which this machine must see, or its place in a bucket), "simulate[:NOISE]"
(losses drawn from a law, in no time).
"""

import hashlib
import math
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tlx.base import place as places
from tlx.base.errors import LEASE, NUMERICS, RETRYABLE, ConfigError, one_of
from tlx.base.files import cache_folder, write_json
from tlx.base.place import BucketPath, Place
from tlx.launch.clusters import CLUSTERS
from tlx.scaling.ledger import Ledger, outside_packages_of
from tlx.scaling.outcome import ended, result_of
from tlx.scaling.simulation import BESIROGLU, draw
from tlx.scaling.task_scores import has_scores, read_scores
from tlx.training.journal import read_lines

# Starts in a row without a new checkpoint after which a run that dies is given up.
_MOST_STARTS = 5

_POLL_SECONDS = 0.2

# Waits before a run is started again: until another process gives up its lease, and after other exits.
_LEASE_SECONDS = 20.0
_RESTART_SECONDS = 1.0

# The words that score the checkpoints of a run on tasks, before its directory and the file of settings.
_SCORER = (sys.executable, "-m", "tlx.scaling.task_scores")

_CONFIG_FILE = '''"""A planned run of a ladder; written by `tlx scale run`."""

import json
import pathlib

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    return ConfigDict(json.loads(pathlib.Path(__file__).with_name("planned.json").read_text()))
'''


def _no_message(text: str) -> None:
    """Print nothing."""


def run(
    plan: Mapping[str, Any] | None,
    folder: str | os.PathLike | BucketPath,
    backend: str = "local",
    *,
    parallel: int = 1,
    allow: Sequence[str] = (),
    say: Callable[[str], None] = _no_message,
) -> list[dict[str, Any]]:
    """Train every run of a plan to its end.

    Finished runs are left alone, and interrupted ones resume from their checkpoints. A run that diverges is
    recorded, and tried once more with half the learning rate. Where the plan names tasks, this machine evaluates
    every finished run on them.

    Args:
        plan: What tlx.scaling.plan returned; None for the plan that the folder holds.
        folder: The ladder's folder, or its place in a bucket.
        backend: local, command:TEMPLATE, launch:CLUSTER FLAGS or simulate[:NOISE]; see the module.
        parallel: Number of runs at once.
        allow: Packages outside tlx that the configs of the stored plan may name code of, besides those that `plan`
            names.
        say: Receives one line of text when a run starts or ends.

    Returns:
        The lines of the ledger.

    Raises:
        ConfigError: The backend is unknown, or the folder holds another plan, or one that names code which is not
            allowed.
        LeaseError: Another process works on the folder.
    """
    ledger = Ledger(folder)
    with ledger.writer():
        if plan is not None:
            ledger.start(plan)
        kind, _, detail = backend.partition(":")
        if kind == "simulate":
            if ledger.plan.get("tasks"):
                raise ConfigError(
                    "backend simulate trains no model to evaluate on ladder.tasks: leave them out"
                )
            _simulate(ledger, float(detail or 0.002))
        elif kind in _TEMPLATES:
            template = _TEMPLATES[kind](detail)
            # The stored plan may be foreign, and its configs are trained as if the user had written them.
            ledger.check_names((*allow, *(() if plan is None else outside_packages_of(plan["runs"]))))
            _Processes(ledger, template, max(1, parallel), say).run()
        else:
            raise ConfigError(one_of("backend", backend, (*_TEMPLATES, "simulate[:NOISE]")))
    return ledger.lines()


def _local(detail: str) -> str:
    """An empty template: `tlx train` on this machine."""
    return ""


def _command(template: str) -> str:
    if "{config}" not in template:
        raise ConfigError("backend command:TEMPLATE needs {config}, and {workdir}, in its template")
    return template


def _launch(detail: str) -> str:
    """A template that hands each run to `tlx launch` and waits for it."""
    cluster, *flags = shlex.split(detail) or [""]
    if cluster not in CLUSTERS:
        raise ConfigError(one_of("backend launch:CLUSTER", cluster, CLUSTERS))
    # The template goes through str.format: braces of the user's flags are doubled.
    escaped = shlex.join(flags).replace("{", "{{").replace("}", "}}")
    python = f"{shlex.quote(sys.executable)} -m"
    return (
        f"exec {python} tlx.scaling.wait_for_cluster {{workdir}} {python} tlx launch {cluster} "
        f"--config={{config}} --name=ladder-{{run}} --workdir={{workdir}} {escaped}"
    )


# Backend: the shell command that trains a run, with {config}, {workdir} and others to be filled in.
_TEMPLATES: dict[str, Callable[[str], str]] = {"local": _local, "command": _command, "launch": _launch}


def status(folder: str | os.PathLike | BucketPath) -> dict[str, Any]:
    """Return the state of a ladder's runs.

    Its keys are done, diverged, failed, left, unscored, seconds_left and runs. unscored is the number of finished
    runs that have not been evaluated on the plan's tasks. seconds_left is for one run after the other at the speed of
    the finished and running ones, and with the time that finished runs took besides training (compilation above all)
    for each run that has not started; None before a run has a speed.
    """
    ledger = Ledger(folder)
    tasks = ledger.plan.get("tasks", {})
    unscored = 0
    rows = []
    measured_seconds = 0.0
    measured_flops = 0.0
    left_flops = 0.0
    besides: list[float] = []
    for row in ledger.rows():
        progress = _progress(ledger.run_folder(row), row)
        state = row.get("status") or ("started" if progress["step"] else "waiting")
        from_step = row.get("from_step", 0)
        step = row["steps"] if state == "done" else max(progress["step"], from_step)
        share = step / row["steps"]
        if progress["seconds"] and state in ("done", "started"):
            trained = max(0.0, share - from_step / row["steps"])
            measured_seconds += trained * progress["seconds"]
            measured_flops += trained * row["flops"]
        if state == "done":
            besides += _seconds_besides_training(ledger.run_folder(row))
            unscored += not has_scores(row, tasks)
        if state in ("started", "waiting"):
            left_flops += (1 - share) * row["flops"]
        names = ("run", "budget", "N", "D", "lr", "seed", "loss", "retry_of")
        shown = {name: row.get(name) for name in names}
        rows.append(shown | {"status": state, "step": step, "steps": row["steps"]})
    count = {state: sum(row["status"] == state for row in rows) for state in ("done", "diverged", "failed")}
    if measured_flops:
        waiting = sum(row["status"] == "waiting" for row in rows)
        setup = float(np.mean(besides)) if besides else 0.0
        seconds_left = left_flops * measured_seconds / measured_flops + waiting * setup
    else:
        seconds_left = None if left_flops else 0.0
    left = len(rows) - sum(count.values())
    return count | {"left": left, "unscored": unscored, "seconds_left": seconds_left, "runs": rows}


class _Processes:
    """Runs of a plan as processes, `parallel` at once."""

    def __init__(self, ledger: Ledger, template: str, parallel: int, say: Callable[[str], None]):
        self.ledger = ledger
        self.template = template
        self.parallel = parallel
        self.say = say
        self.running: dict[str, tuple[subprocess.Popen, dict[str, Any]]] = {}
        self.starts: dict[str, int] = {}  # of each run, since its last new checkpoint
        self.last_step: dict[str, int] = {}  # of the newest checkpoint at the last start
        self.not_before: dict[str, float] = {}  # monotonic time of the next start
        self.tasks: dict[str, Any] = ledger.plan.get("tasks", {})
        self.unscored: set[str] = set()  # runs whose evaluation on tasks has failed

    def run(self) -> None:
        """Start and collect processes until every run has ended."""
        try:
            while True:
                self._collect()
                free = self.parallel - len(self.running)
                # The ledger is read again only where a run can be started: a read costs as much as a step.
                waiting = self._waiting() if free else []
                if not waiting and not self.running:
                    return
                for row in waiting[:free]:
                    if self.not_before.get(row["run"], 0) <= time.monotonic():
                        self._start(row)
                time.sleep(_POLL_SECONDS)
        finally:
            for process, _ in self.running.values():
                process.terminate()

    def _waiting(self) -> list[dict[str, Any]]:
        """Runs without an end or without scores, long ones first; branches once their trunk has got so far."""
        rows = self.ledger.rows()
        finished = {row["run"] for row in rows if "status" in row}
        ready = []
        for row in rows:
            if row["run"] in self.running or (row["run"] in finished and not self._wants_scores(row)):
                continue
            needs_no_trunk = row["run"] in finished or row.get("trunk") in (None, *finished)
            if needs_no_trunk or self._trunk_checkpoint(row) is not None:
                ready.append(row)
        return sorted(ready, key=lambda row: -row["flops"])

    def _wants_scores(self, row: Mapping[str, Any]) -> bool:
        """Whether a finished run is still to be evaluated on the plan's tasks."""
        return row["status"] == "done" and row["run"] not in self.unscored and not has_scores(row, self.tasks)

    def _trunk_checkpoint(self, row: Mapping[str, Any]) -> Place | None:
        """The trunk's checkpoint that a branch starts from, where there is one."""
        if "trunk" not in row:
            return None
        # Checkpoints bring Orbax and JAX: only ladders with branches wait for them.
        from tlx.checkpoint.steps import is_complete

        trunk = self.ledger.run_folder({"run": row["trunk"]})
        folder = trunk / "checkpoints" / str(row["from_step"])
        return folder if is_complete(folder) else None

    def _start(self, row: dict[str, Any]) -> None:
        """Start a run's process; a run that ended while no driver watched is recorded instead."""
        if "status" in row:
            self._start_scoring(row)
            return
        workdir = self.ledger.run_folder(row)
        workdir.mkdir(parents=True, exist_ok=True)
        result = result_of(workdir, row["steps"])
        if result is not None and ended(workdir):
            self._end(row, 0, result)
            return
        checkpoint = self._trunk_checkpoint(row)
        if checkpoint is not None and not _checkpointed(workdir):
            _graft(checkpoint, workdir / "checkpoints")
        local = self._local_folder(row)
        self._open_process(row, local, self._command(row, workdir, local))
        step = _checkpointed(workdir)
        advanced = step > self.last_step.get(row["run"], -1)
        self.starts[row["run"]] = 1 if advanced else self.starts[row["run"]] + 1
        self.last_step[row["run"]] = step
        self.ledger.event("start", run=row["run"])
        self.say(f"{row['run']}  started: {_about(row)}")

    def _open_process(self, row: dict[str, Any], local: pathlib.Path, words: list[str]) -> None:
        """Start a process of a run, whose output goes to the run's log."""
        with open(local / "log.txt", "a", encoding="utf-8") as log:
            process = subprocess.Popen(_dying_with_us(words), stdout=log, stderr=log)
        self.running[row["run"]] = (process, row)

    def _start_scoring(self, row: dict[str, Any]) -> None:
        """Start the evaluation of a finished run on the plan's tasks."""
        workdir = self.ledger.run_folder(row)
        local = self._local_folder(row)
        # Steps before a branch begins are its trunk's.
        permanent = row["config"]["checkpoint"]["keep_at"] if "checkpoint" in row["config"] else ()
        every = row["config"].get("eval", {}).get("every", row["steps"])
        first = row.get("from_step", 0) + 1
        steps = [step for step in permanent if step >= first and step % every == 0]
        write_json(local / "scoring.json", {"tasks": self.tasks, "steps": [*steps, row["steps"]]})
        self._open_process(row, local, [*_SCORER, str(workdir), str(local / "scoring.json")])
        self.ledger.event("score", run=row["run"])

    def _end_scoring(self, row: dict[str, Any], code: int) -> None:
        """Add the scores of a run to the ledger; the next driver tries again where there are none."""
        workdir = self.ledger.run_folder(row)
        by_step = read_scores(workdir)
        results = [(step, result_of(workdir, step)) for step in sorted(by_step)]
        points = [{"step": step} | result | by_step[step] for step, result in results if result is not None]
        if code or not points or not has_scores(points[-1], self.tasks):
            self.unscored.add(row["run"])
            self.say(
                f"{row['run']}  tasks failed: exit {code}, see {self._local_folder(row) / 'log.txt'}; "
                "the same command tries again"
            )
            return
        if len(points) > 1:
            self.ledger.record_checkpoints(row, points)
        last = {name: value for name, value in points[-1].items() if name != "step"}
        self.ledger.record(row, "done", last)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in last.items() if "/" in name)
        self.say(f"{row['run']}  scored: {shown}")

    def _local_folder(self, row: Mapping[str, Any]) -> pathlib.Path:
        """A folder of this machine for a run's config and the output of its process."""
        workdir = self.ledger.run_folder(row)
        if not isinstance(workdir, BucketPath):
            return workdir
        # The same at the next start: a job that is queued on a cluster may read its config later.
        ladder = hashlib.sha256(str(self.ledger.folder).encode()).hexdigest()[:16]
        folder = cache_folder() / "ladders" / ladder / row["run"]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _command(self, row: Mapping[str, Any], workdir: Place, local: pathlib.Path) -> list[str]:
        """Write the run's config to a folder of this machine, and return the words that train it."""
        write_json(local / "planned.json", row["config"])
        config = local / "planned.py"
        config.write_text(_CONFIG_FILE)
        if not self.template:
            return [sys.executable, "-m", "tlx", "train", f"--config={config}", f"--workdir={workdir}"]
        command = self.template.format(
            config=shlex.quote(str(config)),
            workdir=shlex.quote(str(workdir)),
            run=shlex.quote(str(row["run"])),
            memory_bytes=shlex.quote(str(row["memory_bytes"])),
            flops=shlex.quote(str(row["flops"])),
        )
        return ["bash", "-c", command]

    def _collect(self) -> None:
        """Record the processes that have exited."""
        for run_id, (process, row) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[run_id]
            self.ledger.event("exit", run=run_id, code=code)
            self._upload_log(row)
            if "status" in row:
                self._end_scoring(row, code)
                continue
            self._end(row, code, result_of(self.ledger.run_folder(row), row["steps"]))

    def _upload_log(self, row: Mapping[str, Any]) -> None:
        """Put what a run's processes have said into its place in a bucket."""
        local = self._local_folder(row)
        workdir = self.ledger.run_folder(row)
        if local != workdir:
            places.write(workdir / "log.txt", (local / "log.txt").read_bytes())

    def _end(self, row: dict[str, Any], code: int, result: dict[str, Any] | None) -> None:
        """Record the result of a process that has exited, or let its run be started again."""
        code = 128 - code if code < 0 else code
        if code == 0 and result is not None:
            finite = result["loss"] is not None and math.isfinite(result["loss"])
            self._record(row, "done" if finite else "diverged", result)
        elif code == NUMERICS:
            self._record(row, "diverged", {"loss": None, "exit": code})
        elif (code in RETRYABLE or code == LEASE) and self.starts[row["run"]] < _MOST_STARTS:
            pause = _LEASE_SECONDS if code == LEASE else _RESTART_SECONDS
            self.not_before[row["run"]] = time.monotonic() + pause
        else:
            self._record(row, "failed", {"loss": None, "exit": code})

    def _record(self, row: dict[str, Any], status: str, result: Mapping[str, Any]) -> None:
        if status == "diverged" and "retry_of" not in row:
            self.ledger.event("retry", run=row["run"], lr=row["lr"] / 2)
        self.ledger.record(row, status, result)
        loss = result.get("loss")
        shown = f"loss {loss:.4f}" if loss is not None else f"exit {result.get('exit')}"
        log = "" if status != "failed" else f", see {self.ledger.run_folder(row) / 'log.txt'}"
        self.say(f"{row['run']}  {status}: {_about(row)}, {shown}{log}")


def _graft(checkpoint: Place, checkpoints: Place) -> None:
    """Copy a trunk's checkpoint to a branch, complete or not at all, whenever it is killed."""
    if isinstance(checkpoint, BucketPath) and isinstance(checkpoints, BucketPath):
        # Brings JAX, as all that reads checkpoints does.
        from tlx.checkpoint.bucket_copies import copy_step

        copy_step(checkpoint, checkpoints)
        return
    assert isinstance(checkpoint, pathlib.Path) and isinstance(checkpoints, pathlib.Path)
    # A rename within one file system is atomic; a copy is not.
    partial = checkpoints.with_name("grafted")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial)
    checkpoints.mkdir(exist_ok=True)
    os.rename(partial, checkpoints / checkpoint.name)


def _checkpointed(workdir: Place) -> int:
    """Step of the newest checkpoint; 0 before there is one."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def _about(row: Mapping[str, Any]) -> str:
    size = f"N {row['N']:,}, D {row['D']:,}, {row['flops']:.3g} FLOP"
    return f"{size}, lr {row['lr']:.3g}, seed {row['seed']}"


# The kernel ends the process when its parent (argument 1) has ended: PR_SET_PDEATHSIG, SIGKILL. The parent
# may have died before prctl was called, hence the check of the parent's id.
_BOUND = """import ctypes, os, sys
ctypes.CDLL("libc.so.6").prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
sys.exit(137)"""


def _dying_with_us(words: list[str]) -> list[str]:
    """Words whose process dies with the driver (Linux), so that none keeps the lease of a run's directory."""
    if sys.platform != "linux":
        return words
    return [sys.executable, "-I", "-c", _BOUND, str(os.getpid()), *words]


def _simulate(ledger: Ledger, noise: float) -> None:
    """Record losses of Besiroglu's law, with a noise that depends on the run's id alone."""
    for row in ledger.rows():
        if "status" in row:
            continue
        table = {name: np.array([float(row[name])]) for name in ("N", "D")}
        seed = int(row["run"], 16) % 2**32
        loss = draw(table, BESIROGLU, noise, seed=seed)["loss"][0]
        ledger.record(row, "done", {"loss": float(loss), "D_unique": row["D"]})


def _progress(workdir: Place, row: Mapping[str, Any]) -> dict[str, Any]:
    """The last step logged, and the seconds that all steps take at its speed."""
    step = 0
    seconds = 0.0
    for line in read_lines(workdir / "metrics.jsonl"):
        if line["kind"] == "train":
            step = line["step"]
            if line.get("tokens_per_s"):
                seconds = row["steps"] * row["batch_tokens"] / line["tokens_per_s"]
    return {"step": step, "seconds": seconds}


def _seconds_besides_training(workdir: Place) -> list[float]:
    """Seconds of a finished run outside data and steps; none where its journal does not say."""
    for line in reversed(read_lines(workdir / "events.jsonl")):
        if line["event"] == "end" and isinstance(line.get("seconds"), dict):
            others = [value for phase, value in line["seconds"].items() if phase not in ("data", "step")]
            return [sum(others)] if all(isinstance(value, int | float) for value in others) else []
    return []
