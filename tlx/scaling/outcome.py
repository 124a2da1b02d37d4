"""Outcome of a run, read from its directory."""

import json
from typing import Any

from tlx.base.place import Place
from tlx.training.journal import read_lines


def result_of(workdir: Place, steps: int) -> dict[str, Any] | None:
    """Return loss, bits per byte and unique tokens after the last of `steps` steps; None before that."""
    for line in reversed(read_lines(workdir / "metrics.jsonl")):
        if line["kind"] == "validation" and line["step"] == steps:
            saved = json.loads((workdir / "run.json").read_text())
            return {
                "loss": line.get("loss"),
                "bits_per_byte": line.get("bits_per_byte"),
                "D_unique": saved["data"]["train_tokens"],
            }
    return None


def ended(workdir: Place) -> bool:
    """Return whether `tlx train` has recorded the end of the run."""
    return any(line["event"] == "end" for line in read_lines(workdir / "events.jsonl"))
