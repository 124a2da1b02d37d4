"""The ledger of a ladder: what each planned run came to. One writer, whole files, the same after any kill.

FOLDER/plan.json       what `plan` made
FOLDER/ledger.jsonl    one line a planned run, in the plan's order: the table that `fit` reads
FOLDER/events.jsonl    starts, ends and retries, with times
FOLDER/runs/ID/        each run's own directory, ID the hash of its resolved config
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tlx.base.errors import ConfigError, DataError, LeaseError
from tlx.base.files import atomic_open, read_json, sha256_json, write_json

# Columns of a planned run that its ledger line repeats.
_NOT_IN_LINE = ("config", "memory_bytes", "seconds")

# Columns of a branch that it has no more with a rate of its own: it is made from its first step.
_OF_BRANCHES = ("trunk", "from_step", "spent")


class Ledger:
    """Planned runs and what they came to, kept in a folder."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as it was written. Raises DataError where there is none."""
        path = self.folder / "plan.json"
        if not path.exists():
            raise DataError(f"no plan in {self.folder}: make one with `tlx scale plan`")
        return read_json(path)

    def start(self, plan: Mapping[str, Any]) -> None:
        """Writes a plan where there is none. Raises ConfigError where there is another one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        if path.exists():
            old = {row["run"] for row in self.plan["runs"]}
            new = {row["run"] for row in plan["runs"]}
            if not new <= old:
                raise ConfigError(
                    f"{self.folder} holds another plan: {len(new - old)} of {len(new)} runs are not in it; "
                    "choose another --folder, or leave the config out to go on with this plan"
                )
            return
        write_json(path, plan)

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a run to the plan, if it is not there yet."""
        plan = self.plan
        if all(row["run"] != other["run"] for other in plan["runs"]):
            plan["runs"].append(dict(row))
            write_json(self.folder / "plan.json", plan)

    def rows(self) -> list[dict[str, Any]]:
        """Every planned run, retries behind the run they repeat, with what is known of each."""
        done = {line["run"]: line for line in self.lines()}
        found = []
        for row in self.plan["runs"]:
            found.append(row | _results(done.get(row["run"])))
            again = self.retry(row)
            if again["run"] in done or found[-1].get("status") == "diverged":
                found.append(again | _results(done.get(again["run"])))
        return found

    def retry(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The same run with half the learning rate."""
        config = json.loads(json.dumps(row["config"]))
        config["optimizer"]["learning_rate"] = row["lr"] / 2
        changed = {"config": config, "lr": row["lr"] / 2, "retry_of": row["run"]}
        rest = {name: value for name, value in row.items() if name not in _OF_BRANCHES}
        return rest | changed | {"run": sha256_json(config)[:12]}

    def lines(self) -> list[dict[str, Any]]:
        """Lines of the ledger."""
        path = self.folder / "ledger.jsonl"
        if not path.exists():
            return []
        with open(path, encoding="utf-8") as handle:
            return [json.loads(line) for line in handle if line.strip()]

    def record(self, row: Mapping[str, Any], status: str, results: Mapping[str, Any]) -> None:
        """Adds or replaces a run's line; the file stays in the plan's order and is never half written."""
        line = {name: value for name, value in row.items() if name not in _NOT_IN_LINE}
        line |= {"status": status, **{k: _finite(v) for k, v in results.items()}}
        known = {old["run"]: old for old in self.lines()} | {line["run"]: line}
        order = [r["run"] for planned in self.plan["runs"] for r in (planned, self.retry(planned))]
        with atomic_open(self.folder / "ledger.jsonl") as handle:
            handle.writelines(json.dumps(known[run]) + "\n" for run in order if run in known)

    def event(self, name: str, **fields: Any) -> None:
        """Adds a line to events.jsonl."""
        with open(self.folder / "events.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"time": round(time.time(), 3), "event": name, **fields}) + "\n")

    def run_folder(self, row: Mapping[str, Any]) -> pathlib.Path:
        """Where a run trains."""
        return self.folder / "runs" / row["run"]

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """The one writer while the context lasts; a killed one leaves nothing behind. Raises LeaseError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LeaseError(f"another `tlx scale run` works on {self.folder}") from error
            yield


def _results(line: Mapping[str, Any] | None) -> dict[str, Any]:
    if line is None:
        return {}
    names = ("status", "loss", "bits_per_byte", "D_unique", "exit")
    return {name: line[name] for name in names if name in line}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
