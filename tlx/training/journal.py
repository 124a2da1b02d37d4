"""The .jsonl files of a run directory: a JSON object a line, complete after a kill and a resume too."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tlx.base import json_lines, line_segments
from tlx.base import place as places
from tlx.base.errors import UserError, first_line
from tlx.base.files import atomic_open
from tlx.base.place import BucketPath

log = logging.getLogger("tlx")


class Journal:
    """Writer of metrics.jsonl, samples.jsonl, events.jsonl and goodput.jsonl; a silent journal writes nothing.

    Lines are flushed at once; in a bucket within seconds (base/line_segments.py), or by `flush`.
    """

    def __init__(self, folder: str | os.PathLike | BucketPath, silent: bool = False):
        self.folder = places.parse(folder)
        # By file, of a run in a bucket.
        self._writers: dict[str, line_segments.SegmentWriter] = {}
        self.silent = silent
        # Files whose last line could not be written.
        self._failing: set[str] = set()

    def resume(self, step: int) -> None:
        """Remove metrics and samples of steps after `step` and final ones, which come again; repair cut lines.

        Events are history: they are all kept.
        """
        if self.silent:
            return
        # Later steps are trained again: their lines would stand twice and curves would run backwards.
        self._rewrite("metrics.jsonl", lambda line: line["step"] <= step and line["kind"] != "final")
        if self.read("samples.jsonl"):
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
        self._append("events.jsonl", {**_event(name), **fields})

    def goodput(self, **fields: Any) -> None:
        """Append {"time", ...fields} to goodput.jsonl, which a resume keeps as it is."""
        self._append("goodput.jsonl", {"time": round(time.time(), 3), **fields})

    def read(self, file: str) -> list[dict[str, Any]]:
        """Return the lines of one of the files, those of this journal included."""
        self.flush()
        return read_lines(self.folder / file)

    def flush(self) -> None:
        """Write what is still on its way to a bucket; where that fails, one error line says so."""
        for file, writer in self._writers.items():
            try:
                writer.flush()
            except OSError as error:
                self._report(file, error)

    def error(self, error: UserError) -> None:
        """Append the event of an error that ends the run; nothing where the folder cannot be written."""
        first = first_line(error)
        # The folder may be what the error is about: then the error itself is what counts.
        with contextlib.suppress(OSError):
            self._write("events.jsonl", {**_event("error"), "exit": error.code, "what": first})
            if "events.jsonl" in self._writers:
                self._writers["events.jsonl"].flush()

    def _rewrite(self, file: str, stays: Callable[[dict[str, Any]], bool]) -> None:
        """Write a file again with the lines that can be read and stay."""
        lines = [line for line in self.read(file) if stays(line)]
        if isinstance(self.folder, BucketPath):
            self._writer(file).rewrite("".join(json.dumps(line) + "\n" for line in lines).encode())
            return
        with atomic_open(self.folder / file) as handle:
            handle.writelines(json.dumps(line) + "\n" for line in lines)

    def _append(self, file: str, line: dict[str, Any]) -> None:
        """Append a line; where that fails, training goes on without it, and one error line says so."""
        try:
            self._write(file, line)
        except OSError as error:
            self._report(file, error)
        else:
            self._failing.discard(file)

    def _report(self, file: str, error: OSError) -> None:
        if file not in self._failing:
            log.error(
                "%s cannot be written (%s): its lines are lost until it can; training goes on",
                self.folder / file,
                error.strerror,
            )
        self._failing.add(file)

    def _write(self, file: str, line: dict[str, Any]) -> None:
        if self.silent:
            return
        if isinstance(self.folder, BucketPath):
            self._writer(file).append(json.dumps(line).encode() + b"\n")
        else:
            json_lines.append(self.folder / file, line)

    def _writer(self, file: str) -> line_segments.SegmentWriter:
        if file not in self._writers:
            assert isinstance(self.folder, BucketPath)
            self._writers[file] = line_segments.SegmentWriter(self.folder / file)
        return self._writers[file]


def read_lines(path: str | os.PathLike | BucketPath) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file; broken lines are skipped and counted in a warning. No file: none."""
    return json_lines.read(path, _SOUND.get(os.path.basename(str(path)), bool))


def _is_metrics(line: dict[str, Any]) -> bool:
    others = (value for name, value in line.items() if name != "kind")
    numbers = all(value is None or json_lines.is_number(value) for value in others)
    return numbers and _has_step(line) and isinstance(line.get("kind"), str)


def _has_step(line: dict[str, Any]) -> bool:
    return isinstance(line.get("step"), int) and json_lines.is_number(line["step"])


def _is_event(line: dict[str, Any]) -> bool:
    is_exit = line.get("event") != "error" or isinstance(line.get("exit"), int)
    return isinstance(line.get("event"), str) and json_lines.is_number(line.get("time")) and is_exit


def _is_goodput(line: dict[str, Any]) -> bool:
    numbers = [line.get("time"), line.get("life"), line.get("processes")]
    for group in ("seconds", "mean"):
        values = line.get(group, {})
        if not isinstance(values, dict):
            return False
        numbers += values.values()
    steps = (line.get("begin"), line.get("step"))
    are_steps = all(step is None or isinstance(step, int) for step in steps)
    slowest = line.get("slowest", {})
    return are_steps and isinstance(slowest, dict) and all(json_lines.is_number(x) for x in numbers)


# What the readers of each file count on: other lines are as broken as those that are no JSON.
_SOUND = {
    "metrics.jsonl": _is_metrics,
    "samples.jsonl": _has_step,
    "events.jsonl": _is_event,
    "goodput.jsonl": _is_goodput,
}


def _event(name: str) -> dict[str, Any]:
    return {"time": round(time.time(), 3), "event": name}


def _finite(value: Any) -> float | int | None:
    if isinstance(value, int):
        return value
    # NaN is no JSON: other readers than Python's would refuse the whole file.
    return float(value) if math.isfinite(value) else None
