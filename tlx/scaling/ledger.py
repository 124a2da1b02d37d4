"""The ledger of a ladder: the outcome of each planned run. One writer, whole files, the same after any kill.

FOLDER/plan.json       what `plan` returned
FOLDER/ledger.jsonl    one line per planned run, in the plan's order: the table that `fit` reads
FOLDER/checkpoints.jsonl  one line per checkpoint that was evaluated on tasks, where there are several of a run
FOLDER/events.jsonl    starts, exits and retries, with times
FOLDER/runs/ID/        each run's own directory

FOLDER is a folder, or a place in a bucket, where the lock is a lease (checkpoint/bucket_lease.py) and events.jsonl a
file of segments.

A run's ID is made once, when it is planned (`new_id`), and stored in plan.json: from then on it is read,
never computed again, and plan.json keeps the configs as they were written. A ladder therefore goes on under
its own ids although keys of the config were renamed or added since.
"""

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tlx.base import json_lines, line_segments
from tlx.base import place as places
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError, DataError, LeaseError
from tlx.base.files import atomic_open, read_json, sha256_json, write_json
from tlx.base.lookup import outside_package
from tlx.base.place import BucketPath, Place
from tlx.base.renamed_keys import upgrade
from tlx.base.saved_defaults import adopt, fill

LEDGER = "ledger.jsonl"
CHECKPOINTS = "checkpoints.jsonl"

FORMAT = 2  # of plan.json: that of the configs in it (run.json's). Plans without one are of format 1.

# Columns of a planned run that its ledger line does not repeat.
_NOT_IN_LINE = ("config", "memory_bytes", "seconds")

# Columns of a branch that its retry lacks: at another learning rate it trains from the first step.
_OF_BRANCHES = ("trunk", "from_step", "spent")

# Columns of a ledger line that are results of training, not of planning.
_RESULTS = ("status", "loss", "bits_per_byte", "D_unique", "exit")


def new_id(config: Mapping[str, Any]) -> str:
    """Return the id of a run that is planned now, from its resolved config."""
    return sha256_json(config)[:12]


class Ledger:
    """Planned runs and their outcomes, kept in a folder or a bucket."""

    def __init__(self, folder: str | os.PathLike | BucketPath):
        """Open a ladder's folder; nothing is read or written yet."""
        self.folder = places.as_named(folder)
        self._events: line_segments.SegmentWriter | None = None
        # Raises LeaseError where another process has taken a ladder in a bucket over.
        self._guard: Callable[[], None] = _nothing

    @property
    def has_plan(self) -> bool:
        """Whether the folder holds a plan."""
        return (self.folder / "plan.json").exists()

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as it was written. Raises DataError where there is none."""
        if not self.has_plan:
            raise DataError(f"no plan in {self.folder}: make one with `tlx scale plan`")
        return read_json(self.folder / "plan.json")

    def start(self, plan: Mapping[str, Any]) -> None:
        """Write a plan where there is none. Raises ConfigError where there is another one.

        A plan that is there already keeps its ids, whatever those of `plan` are, and takes the tasks of `plan`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.has_plan:
            write_json(self.folder / "plan.json", plan)
            return
        ids = self.stored_runs(plan["runs"])
        if None in ids:
            raise ConfigError(
                f"{self.folder} holds another plan: {ids.count(None)} of {len(ids)} runs are not in it; "
                "choose another --folder, or leave the config out to go on with this plan"
            )
        stored = self.plan
        if plan.get("tasks") and plan["tasks"] != stored.get("tasks"):
            write_json(self.folder / "plan.json", stored | {"tasks": plan["tasks"]})

    def stored_runs(self, runs: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Return the stored id of each planned run of `runs`; None where the stored plan lacks it.

        A run is known by its id, or else by its config: equal in today's keys, where keys that the stored
        plan did not have yet are at their defaults.
        """
        plan = self.plan
        stored = {row["run"] for row in plan["runs"]}
        if all(run["run"] in stored for run in runs):
            return [run["run"] for run in runs]
        configs = [upgrade(row["config"], plan.get("format", 1)) for row in plan["runs"]]
        # `runs` are the user's; the stored plan may name the same code, and no other.
        allow = outside_packages_of(runs)
        by_config = {
            _identity(fill(config), allow): row["run"]
            for config, row in zip(configs, plan["runs"], strict=True)
        }
        ids = []
        for run in runs:
            if run["run"] in stored:
                ids.append(run["run"])
            else:
                # All runs of a plan were saved by one version: they lack the same keys.
                adopted, _ = adopt(run["config"], configs[0] if configs else {})
                ids.append(by_config.get(_identity(adopted, allow)))
        return ids

    def check_names(self, allow: tuple[str, ...]) -> None:
        """Raise ConfigError where a config of the plan names code outside tlx that is not allowed."""
        plan = self.plan
        for row in plan["runs"]:
            if not set(outside_packages_of([row])) <= set(allow):
                # Brings JAX: only plans with something that looks like a name of code come here.
                from tlx.run.config import parse_config

                parse_config(fill(upgrade(row["config"], plan.get("format", 1))), allow)

    def rows(self) -> list[dict[str, Any]]:
        """Return every planned run with its results, if any; a retry follows the run that it repeats.

        Configs are in the keys of today.
        """
        plan = self.plan
        saved_format = plan.get("format", 1)
        lines = {line["run"]: line for line in self.lines()}
        ids = {planned["run"] for planned in plan["runs"]}
        rows = []
        for planned in plan["runs"]:
            row = planned | _results(lines.get(planned["run"]))
            rows.append(row)
            retry = self.retry(planned)
            # A sweep of learning rates may hold half of each: that run is the retry.
            if retry["run"] in ids:
                continue
            if retry["run"] in lines or row.get("status") == "diverged":
                rows.append(retry | _results(lines.get(retry["run"])))
        return [row | {"config": fill(upgrade(row["config"], saved_format))} for row in rows]

    def retry(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same run with half the learning rate.

        `row` is as plan.json has it: its stored config, which never changes, gives the id of the retry.
        """
        lr = row["lr"] / 2
        config = json.loads(json.dumps(row["config"]))
        config["optimizer"]["learning_rate"] = lr
        retry = {name: value for name, value in row.items() if name not in _OF_BRANCHES}
        return retry | {"config": config, "lr": lr, "retry_of": row["run"], "run": new_id(config)}

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the ledger."""
        return json_lines.read(self.folder / LEDGER, is_line)

    def record(self, row: Mapping[str, Any], status: str, results: Mapping[str, Any]) -> None:
        """Add or replace a run's line; the file stays in the plan's order and is never half written.

        Args:
            row: The planned run, or a retry of one.
            status: done, diverged or failed.
            results: loss, bits_per_byte, D_unique, exit and the columns TASK/METRIC, as far as known; numbers that
                are not finite become None.
        """
        line = {name: value for name, value in row.items() if name not in _NOT_IN_LINE}
        line["status"] = status
        line |= {name: _finite(value) for name, value in results.items()}
        self._guard()
        known = {old["run"]: old for old in self.lines()}
        known[line["run"]] = line
        with atomic_open(self.folder / LEDGER) as handle:
            handle.writelines(json.dumps(known[run]) + "\n" for run in self._order() if run in known)

    def record_checkpoints(self, row: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> None:
        """Add or replace the lines of a run's checkpoints; the file stays in the plan's order.

        Args:
            row: The planned run.
            points: "step", "loss" and the columns of tasks of each checkpoint, in the order of their steps.
        """
        names = ("run", "objective", "budget", "N", "N_nonembed", "depth", "width", "lr", "seed")
        known: dict[str, list[dict[str, Any]]] = {}
        for line in json_lines.read(self.folder / CHECKPOINTS, is_line):
            known.setdefault(line["run"], []).append(line)
        known[row["run"]] = []
        for point in points:
            columns = {name: row[name] for name in names if name in row}
            columns["D"] = point["step"] * row["batch_tokens"]
            columns["flops"] = row["flops"] * point["step"] / row["steps"]
            known[row["run"]].append(columns | {"status": "done"} | dict(point))
        self._guard()
        with atomic_open(self.folder / CHECKPOINTS) as handle:
            for run in self._order():
                handle.writelines(json.dumps(line) + "\n" for line in known.get(run, ()))

    def _order(self) -> list[str]:
        """Ids of all planned runs in the plan's order, each followed by that of its retry."""
        order = []
        for planned in self.plan["runs"]:
            order += [planned["run"], self.retry(planned)["run"]]
        return list(dict.fromkeys(order))

    def event(self, name: str, **fields: Any) -> None:
        """Add a line to events.jsonl."""
        line = {"time": round(time.time(), 3), "event": name, **fields}
        path = self.folder / "events.jsonl"
        if not isinstance(path, BucketPath):
            json_lines.append(path, line)
            return
        if self._events is None:
            self._events = line_segments.SegmentWriter(path)
        self._events.append(json.dumps(line).encode() + b"\n")

    def run_folder(self, row: Mapping[str, Any]) -> Place:
        """Return the directory in which a run trains."""
        return self.folder / "runs" / row["run"]

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """Hold the ladder while the context lasts. Raises LeaseError where another process has it."""
        if isinstance(self.folder, BucketPath):
            with self._leased(self.folder):
                yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w", encoding="utf-8") as handle:
            # A lock of the kernel, not a file's existence: it ends with its process, however that is killed.
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LeaseError(f"another `tlx scale run` works on {self.folder}") from error
            yield

    @contextlib.contextmanager
    def _leased(self, folder: BucketPath) -> Iterator[None]:
        """Hold the lease of a ladder in a bucket, and write its last events at the end."""
        # Brings JAX, as a run in a bucket does.
        from tlx.checkpoint.bucket_lease import BucketLease

        with contextlib.ExitStack() as stack:
            try:
                lease = stack.enter_context(BucketLease(folder))
            except LeaseError as error:
                raise LeaseError(f"another `tlx scale run` works on {folder}: {error}") from error
            self._guard = lease.check
            try:
                yield
            finally:
                self._guard = _nothing
                if self._events is not None:
                    self._events.flush()


def _nothing() -> None:
    """Let every write pass."""


def is_line(line: Mapping[str, Any]) -> bool:
    """Return whether an object of the ledger has what its readers count on."""
    return isinstance(line.get("run"), str) and isinstance(line.get("status"), str)


def outside_packages_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the packages of all values in the configs of planned runs that look like "package.module:attr"."""
    packages: set[str] = set()
    pending: list[Any] = [row["config"] for row in rows]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
        elif (package := outside_package(value)) is not None:
            packages.add(package)
    return tuple(sorted(packages))


def _identity(config: Mapping[str, Any], allow: tuple[str, ...]) -> str:
    """A hash that two planned runs share where they are the same run; `config` has the keys of today."""
    # Brings JAX: only plans of another version come here.
    from tlx.run.config import parse_config

    try:
        config = to_dict(parse_config(config, allow))  # with the defaults of keys that were added since
    except ConfigError:
        pass  # of a plan that was not made for `tlx train`: as it stands
    # How a run is watched is no part of what it is.
    return sha256_json({key: value for key, value in config.items() if key != "log"})


def _results(line: Mapping[str, Any] | None) -> dict[str, Any]:
    """The results in a ledger line; none where there is no line."""
    if line is None:
        return {}
    scores = {name: value for name, value in line.items() if "/" in name}
    return {name: line[name] for name in _RESULTS if name in line} | scores


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
