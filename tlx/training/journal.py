"""metrics.jsonl, samples.jsonl and events.jsonl: a JSON object a line, complete after a kill and a resume too."""

import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tlx.base.files import atomic_open


class Journal:
    """The three files of a run directory. Lines are flushed at once; a silent journal writes nothing."""

    def __init__(self, folder: str | os.PathLike, silent: bool = False):
        self.folder = pathlib.Path(folder)
        self.silent = silent

    def resume(self, step: int) -> None:
        """Remove metrics and samples of steps after `step` and final ones, which come again; repair cut lines.

        Events are history: they are all kept.
        """
        if self.silent:
            return
        # Later steps are trained again: their lines would stand twice and curves would run backwards.
        self._rewrite("metrics.jsonl", lambda line: line["step"] <= step and line["kind"] != "final")
        if (self.folder / "samples.jsonl").exists():
            self._rewrite("samples.jsonl", lambda line: line["step"] <= step)
        self._rewrite("events.jsonl", lambda line: True)

    def metrics(self, step: int, values: Mapping[str, float], kind: str = "train") -> None:
        """Append {"step", "kind", ...values} to metrics.jsonl.

        Args:
            step: steps done.
            values: metrics by name; what is not finite becomes null.
            kind: "train", "validation" or "final".
        """
        finite = {name: _finite(value) for name, value in values.items()}
        self._append("metrics.jsonl", {"step": step, "kind": kind, **finite})

    def samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Append {"step", ...sample} to samples.jsonl for each sample."""
        for sample in samples:
            self._append("samples.jsonl", {"step": step, **sample})

    def event(self, name: str, **fields: Any) -> None:
        """Append {"time", "event", ...fields} to events.jsonl: start, resume, changed, skip, preempt, end."""
        self._append("events.jsonl", {"time": round(time.time(), 3), "event": name, **fields})

    def _rewrite(self, file: str, stays: Callable[[dict[str, Any]], bool]) -> None:
        """Write a file again with the lines that can be read and stay."""
        lines = [line for line in read_lines(self.folder / file) if stays(line)]
        with atomic_open(self.folder / file) as handle:
            handle.writelines(json.dumps(line) + "\n" for line in lines)

    def _append(self, file: str, line: dict[str, Any]) -> None:
        if not self.silent:
            # Closed after each line, so that it is in the file where the process is killed next.
            with open(self.folder / file, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file; a line cut short by a kill is left out. No file: none."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as handle:
        # A line without its end was being written when the process was killed.
        whole = [line for line in handle if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def _finite(value: Any) -> float | int | None:
    if isinstance(value, int):
        return value
    # NaN is no JSON: other readers than Python's would refuse the whole file.
    return float(value) if math.isfinite(value) else None
