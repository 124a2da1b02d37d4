"""The lives of a run, read from goodput.jsonl and events.jsonl: where the seconds went, and why each life ended.

Work that was done again is no progress: where a life goes on from an earlier step than a life before it had reached,
the seconds of data and step that led there are lost work.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tlx.base import place as places
from tlx.base.errors import PREEMPTED, DataError
from tlx.base.place import BucketPath
from tlx.training.journal import read_lines

FILE = "goodput.jsonl"

# Kinds of seconds, and the phases of clock.py that they are made of, in the order of the report.
KINDS: dict[str, tuple[str, ...]] = {
    "step": ("step",),
    "data wait": ("data",),
    "evaluation": ("evaluate",),
    "save": ("checkpoint",),
    "start": ("start", "prepare"),
    "restore": ("restore",),
    "compile": ("compile",),
    "other": ("log", "hooks", "summary"),
    "lost work": (),
    "down": (),
}
# Phases that train: lost where their steps are trained again.
_TRAINING = ("data", "step")


class Life(NamedTuple):
    """One start of a run's processes, up to the next one."""

    started: float
    """Time when its processes were started, seconds since 1970."""
    begin: int | None
    """Step that it went on from; None where it did not come so far."""
    step: int | None
    """Last step that is known."""
    processes: int
    """Number of processes."""
    seconds: dict[str, float]
    """Seconds by kind (KINDS), the mean of the processes where they are known; "down" is the time from the last line
    to the next life."""
    reason: str
    """Why it ended."""
    slowest: dict[str, Any]
    """"process", "host", "seconds_per_step", "median" of the slowest host; empty for a single process."""

    @property
    def total(self) -> float:
        """Seconds of all kinds."""
        return sum(self.seconds.values())


class _Stretch(NamedTuple):
    """Training between two lines of a life."""

    life: int
    first: int
    last: int
    seconds: dict[str, float]


def read_lives(folder: str | os.PathLike | BucketPath) -> list[Life]:
    """Return the lives of a run, oldest first; DataError where it has recorded none."""
    folder = places.parse(folder)
    by_life: dict[float, list[dict[str, Any]]] = {}
    for line in read_lines(folder / FILE):
        by_life.setdefault(line["life"], []).append(line)
    if not by_life:
        raise DataError(f"{folder} has no {FILE}: runs write it since tlx 0.2, as soon as they train")
    starts = sorted(by_life)
    events = read_lines(folder / "events.jsonl")
    lost = lost_work([by_life[start] for start in starts])
    lives = []
    for index, start in enumerate(starts):
        following = starts[index + 1] if index + 1 < len(starts) else None
        last = by_life[start][-1]
        seconds = _by_kind(_process_seconds(last))
        # Moved, not added: these seconds are part of the two.
        for phase, amount in lost[index].items():
            kind = "step" if phase == "step" else "data wait"
            seconds[kind] -= amount
            seconds["lost work"] += amount
        if following is not None:
            seconds["down"] = max(0.0, following - last["time"])
        lives.append(
            Life(
                started=start,
                begin=last.get("begin"),
                step=last.get("step"),
                processes=last["processes"],
                seconds=seconds,
                reason=_reason(events, start, following),
                slowest=last.get("slowest", {}),
            )
        )
    return lives


def total_seconds(lives: Iterable[Life]) -> dict[str, float]:
    """Return the seconds by kind of all lives together, of all their processes."""
    total = dict.fromkeys(KINDS, 0.0)
    for life in lives:
        for kind, seconds in life.seconds.items():
            total[kind] += seconds * life.processes
    return total


def lost_work(lives: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """Return the seconds by phase of each life's training that was done again later, in this life or another.

    Args:
        lives: The lines of each life, oldest first.

    Returns:
        Of each life {"data": seconds, "step": seconds}.
    """
    lost: list[dict[str, float]] = [dict.fromkeys(_TRAINING, 0.0) for _ in lives]
    standing: list[_Stretch] = []
    for index, lines in enumerate(lives):
        before: Mapping[str, Any] | None = None
        for line in lines:
            step = line.get("step")
            if step is None:
                continue
            if before is None or step < before["step"]:
                # A start or a rollback: what was trained beyond it counts no more.
                standing = _cut(standing, step, lost)
            elif step > before["step"]:
                now = line["seconds"]
                then = before["seconds"]
                spent = {phase: now.get(phase, 0.0) - then.get(phase, 0.0) for phase in _TRAINING}
                standing.append(_Stretch(index, before["step"], step, spent))
            before = line
    return lost


def _cut(stretches: Sequence[_Stretch], step: int, lost: list[dict[str, float]]) -> list[_Stretch]:
    """Return the training up to `step`; the seconds beyond it are added to `lost`."""
    kept = []
    for stretch in stretches:
        # Steps within a stretch take the same time, as far as is known.
        share = min(1.0, max(0.0, (stretch.last - step) / (stretch.last - stretch.first)))
        for phase, seconds in stretch.seconds.items():
            lost[stretch.life][phase] += share * seconds
        if share < 1.0:
            rest = {phase: (1.0 - share) * seconds for phase, seconds in stretch.seconds.items()}
            kept.append(_Stretch(stretch.life, stretch.first, min(step, stretch.last), rest))
    return kept


def _process_seconds(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds by phase of a life: the mean of all processes where there is one, else process 0's.

    The mean is of an earlier line. It is scaled to the length of process 0's life, which the others' have too.
    """
    own = line["seconds"]
    mean = line.get("mean")
    if not mean:
        return own
    at = sum(mean.values())
    factor = sum(own.values()) / at if at else 1.0
    return {phase: seconds * factor for phase, seconds in mean.items()}


def _by_kind(seconds: Mapping[str, float]) -> dict[str, float]:
    by_kind = dict.fromkeys(KINDS, 0.0)
    names = {phase: kind for kind, phases in KINDS.items() for phase in phases}
    for phase, amount in seconds.items():
        by_kind[names.get(phase, "other")] += amount
    return by_kind


def _reason(events: Sequence[Mapping[str, Any]], start: float, following: float | None) -> str:
    """Return why a life ended, of the events that were written in it."""
    reason = ""
    for event in events:
        # The event of an error is written last, after that of a request to stop.
        if event["time"] < start or (following is not None and event["time"] >= following):
            continue
        if event["event"] == "preempt":
            reason = f"asked to stop ({event.get('why')}), saved at step {event.get('step')}"
        elif event["event"] == "stall":
            reason = f"watchdog: {event.get('what')}"
        elif event["event"] == "error" and event["exit"] != PREEMPTED:
            reason = f"error, exit {event['exit']}: {event.get('what')}"
        elif event["event"] == "end":
            reason = f"finished at step {event.get('step')}"
    if reason:
        return reason
    if following is None:
        return "running, or killed without a word"
    return "killed without a word (SIGKILL, a crash, or the loss of a host)"
