"""metrics.jsonl and events.jsonl: one JSON object a line, right after a kill and a resume too."""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tlx.base.files import atomic_open


class Journal:
    """The two files of a run directory. Lines are flushed at once; on a silent journal nothing is written."""

    def __init__(self, folder: str | os.PathLike, silent: bool = False):
        self.folder = pathlib.Path(folder)
        self.silent = silent

    def resume(self, step: int) -> None:
        """Forgets metrics of steps after `step` and final ones, which will come again; mends a line cut
        by a kill.

        Events are history: they are all kept.
        """
        if self.silent:
            return
        lines = read_lines(self.folder / "metrics.jsonl")
        kept = [line for line in lines if line["step"] <= step and line["kind"] != "final"]
        with atomic_open(self.folder / "metrics.jsonl") as handle:
            handle.writelines(json.dumps(line) + "\n" for line in kept)
        events = read_lines(self.folder / "events.jsonl")
        with atomic_open(self.folder / "events.jsonl") as handle:
            handle.writelines(json.dumps(line) + "\n" for line in events)

    def metrics(self, step: int, values: Mapping[str, float], kind: str = "train") -> None:
        """Adds {"step", "kind", ...values}; what is not finite becomes null."""
        self._add("metrics.jsonl", {"step": step, "kind": kind, **{k: _finite(v) for k, v in values.items()}})

    def event(self, name: str, **fields: Any) -> None:
        """Adds {"time", "event", ...fields}: start, resume, compiled, evaluate, skip, stop, end."""
        self._add("events.jsonl", {"time": round(time.time(), 3), "event": name, **fields})

    def _add(self, file: str, line: dict[str, Any]) -> None:
        if not self.silent:
            with open(self.folder / file, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a line cut short by a kill is left out. No file: none."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as handle:
        whole = [line for line in handle if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def _finite(value: Any) -> float | int | None:
    return value if isinstance(value, int) else float(value) if math.isfinite(value) else None
