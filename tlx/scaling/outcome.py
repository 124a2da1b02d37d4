"""What a run's directory says of how it ended."""

import json
import pathlib
from typing import Any

from tlx.training.journal import read_lines


def result_of(workdir: pathlib.Path, steps: int) -> dict[str, Any] | None:
    """Loss and bits per byte after the last step, and the unique tokens; None before that."""
    for line in reversed(read_lines(workdir / "metrics.jsonl")):
        if line["kind"] == "validation" and line["step"] == steps:
            found = {"loss": line.get("loss"), "bits_per_byte": line.get("bits_per_byte")}
            run = json.loads((workdir / "run.json").read_text())
            return found | {"D_unique": run["data"]["train_tokens"]}
    return None


def ended(workdir: pathlib.Path) -> bool:
    """Whether `tlx train` said that it had come to its end."""
    return any(line["event"] == "end" for line in read_lines(workdir / "events.jsonl"))
