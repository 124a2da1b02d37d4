"""Compares the leaves of a checkpoint with those that are wanted, all at once, before anything is read."""

import difflib
import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from tlx.checkpoint.manifest import LeafInfo

MAX_LINES = 40


def table(saved: Mapping[str, LeafInfo], wanted: Mapping[str, Any]) -> str:
    """One aligned line per leaf that differs in path, shape, dtype or does not divide; "" if all agree.

    `wanted` holds arrays or ShapeDtypeStructs by path:
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
    found = []
    if saved.shape != tuple(wanted.shape):
        found.append(f"checkpoint {_shape(saved.shape)}, model {_shape(wanted.shape)}")
    if saved.dtype != str(wanted.dtype):
        found.append(f"checkpoint {saved.dtype}, model {wanted.dtype}")
    sharding = getattr(wanted, "sharding", None)
    if sharding is not None and not found:
        try:
            sharding.shard_shape(tuple(wanted.shape))
        except ValueError as error:
            found.append(
                f"{_shape(wanted.shape)} does not divide over the devices: {str(error).splitlines()[0]}"
            )
    return found


def _shape(shape: Iterable[int]) -> str:
    return "(" + ",".join(str(size) for size in shape) + ")"


def _nearest(path: str, choices: list[str]) -> str:
    """The unmatched leaf most like `path` in spelling, among the 20 that share most of its names."""
    names = set(path.split("/"))
    likely = heapq.nlargest(20, choices, key=lambda choice: len(names.intersection(choice.split("/"))))
    return next(iter(difflib.get_close_matches(path, likely, n=1, cutoff=0.6)), "")
