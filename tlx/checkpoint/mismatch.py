"""Comparison of all leaves of a checkpoint with those of the model, before any is read."""

import difflib
import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from tlx.checkpoint.manifest import LeafInfo

MAX_LINES = 40


def table(saved: Mapping[str, LeafInfo], wanted: Mapping[str, Any]) -> str:
    """Return a table with a line for each leaf that differs in path, shape or dtype, or does not divide.

    Empty where all agree. `wanted` holds arrays or ShapeDtypeStructs by path:

        params/embed  checkpoint (128,16), model (256,16)
        params/bias   not in the checkpoint; nearest there: params/biases
    """
    missing = [path for path in wanted if path not in saved]
    surplus = [path for path in saved if path not in wanted]
    rows: list[tuple[str, str]] = []
    for path, leaf in wanted.items():
        if path in saved:
            rows += [(path, text) for text in _differences(saved[path], leaf)]
    for path in missing:
        # Spelling is compared for lines that are shown alone: it is slow, and a model has thousands of
        # leaves.
        near = _nearest(path, surplus) if len(rows) < MAX_LINES else ""
        rows.append((path, "not in the checkpoint" + (f"; nearest there: {near}" if near else "")))
    for path in surplus:
        near = _nearest(path, missing) if len(rows) < MAX_LINES else ""
        rows.append((path, "only in the checkpoint" + (f"; nearest in the model: {near}" if near else "")))
    shown = rows[:MAX_LINES]
    width = max((len(path) for path, _ in shown), default=0)
    lines = [f"  {path:<{width}}  {text}" for path, text in shown]
    if len(rows) > MAX_LINES:
        lines.append(f"  ... and {len(rows) - MAX_LINES} more")
    return "\n".join(lines)


def _differences(saved: LeafInfo, wanted: Any) -> list[str]:
    differences = []
    if saved.shape != tuple(wanted.shape):
        differences.append(f"checkpoint {_shape(saved.shape)}, model {_shape(wanted.shape)}")
    if saved.dtype != str(wanted.dtype):
        differences.append(f"checkpoint {saved.dtype}, model {wanted.dtype}")
    sharding = getattr(wanted, "sharding", None)
    if sharding is not None and not differences:
        try:
            sharding.shard_shape(tuple(wanted.shape))
        except ValueError as error:
            differences.append(
                f"{_shape(wanted.shape)} does not divide over the devices: {str(error).splitlines()[0]}"
            )
    return differences


def _shape(shape: Iterable[int]) -> str:
    return "(" + ",".join(str(size) for size in shape) + ")"


def _nearest(path: str, choices: list[str]) -> str:
    """Return the unmatched leaf that is spelled most like `path`, of the 20 that share most of its names."""
    names = set(path.split("/"))
    likely = heapq.nlargest(20, choices, key=lambda choice: len(names.intersection(choice.split("/"))))
    return next(iter(difflib.get_close_matches(path, likely, n=1, cutoff=0.6)), "")
