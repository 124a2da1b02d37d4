"""`tlx report RUN --goodput`: the seconds of a run by kind, over all its starts, as a table and a picture."""

import argparse
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from tlx.base import place as places
from tlx.base.place import Place
from tlx.training.directory import read_run
from tlx.training.lives import KINDS, Life, read_lives, total_seconds


def report(folders: Sequence[Place], options: argparse.Namespace) -> None:
    """Print a table for each run, or JSON of all; draw the picture of --plot."""
    runs = {str(folder): read_lives(folder) for folder in folders}
    used = {str(folder): energy(folder, runs[str(folder)], options.watts, options.grid) for folder in folders}
    if options.plot:
        draw(options.plot, runs)
    if options.json:
        print(json.dumps({name: to_json(lives) | used[name] for name, lives in runs.items()}, indent=2))
        return
    for name, lives in runs.items():
        lines = [f"{figure.replace('_', ' '):13} {value:,.4g}" for figure, value in used[name].items()]
        print("\n".join([name, table(lives), *lines, ""]))


def energy(folder: Place, lives: Sequence[Life], watts: float, grid: float) -> dict[str, float]:
    """Return what a run's devices took in all of its starts, as power times hours (Strubell et al. 2019).

    Args:
        folder: The run's directory.
        lives: Its lives. While it is down it takes nothing.
        watts: Power of a device with its share of the machine; 0: not known.
        grid: Grams of CO2 equivalents of a kilowatt-hour where the run was; 0: not known.

    Returns:
        "device_hours", "energy_kwh" and "co2e_kg", as far as they are known; none without `watts`.
    """
    if not watts:
        return {}
    run = read_run(folder)
    assert run is not None  # it has lives
    hours = sum(life.total - life.seconds["down"] for life in lives) / 3600 * math.prod(run["mesh"].values())
    figures = {"device_hours": hours, "energy_kwh": hours * watts / 1e3}
    return figures | ({"co2e_kg": figures["energy_kwh"] * grid / 1e3} if grid else {})


def goodput(lives: Sequence[Life]) -> float:
    """Return the fraction of all seconds in which steps were trained that stand."""
    total = total_seconds(lives)
    return total["step"] / max(sum(total.values()), 1e-9)


def to_json(lives: Sequence[Life]) -> dict[str, Any]:
    """Return the lives and their sums as JSON."""
    return {
        "goodput": goodput(lives),
        "seconds": total_seconds(lives),
        "lives": [life._asdict() | {"total": life.total} for life in lives],
    }


def table(lives: Sequence[Life]) -> str:
    """Format the lives of a run as text.

    Args:
        lives: The lives, oldest first.

    Returns:
        A Markdown table of seconds by kind with a column for each start, why each ended, and the slowest host.
    """
    total = total_seconds(lives)
    whole = max(sum(total.values()), 1e-9)
    heads = [f"start {number}" for number in range(1, len(lives) + 1)]
    rows = [["seconds", *heads, "all", "share"]]
    for kind in KINDS:
        if total[kind] > 0:
            values = [f"{life.seconds[kind] * life.processes:,.1f}" for life in lives]
            rows.append([kind, *values, f"{total[kind]:,.1f}", f"{total[kind] / whole:.1%}"])
    sums = [f"{life.total * life.processes:,.1f}" for life in lives]
    rows.append(["all", *sums, f"{whole:,.1f}", "100.0%"])
    rows.insert(1, ["---"] * len(rows[0]))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.append("")
    for number, life in enumerate(lives, 1):
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(life.started))
        steps = "no step" if life.begin is None else f"steps {life.begin:,} to {life.step or 0:,}"
        lines.append(f"start {number}  {began}  {_processes(life)}, {steps}: {life.reason}")
    slowest = next((life.slowest for life in reversed(lives) if life.slowest), None)
    if slowest:
        lines.append(
            f"slowest host  process {slowest['process']} ({slowest['host']}): "
            f"{slowest['seconds_per_step'] * 1e3:,.1f} ms of its own a step, the median is "
            f"{slowest['median'] * 1e3:,.1f} ms"
        )
    lines.append(f"goodput  {goodput(lives):.1%} of all seconds trained steps that stand")
    return "\n".join(lines)


def _processes(life: Life) -> str:
    return "1 process" if life.processes == 1 else f"{life.processes:,} processes (seconds of all together)"


def draw(path: str, runs: dict[str, list[Life]]) -> None:
    """Draw a bar for each start of each run, its seconds by kind on top of each other.

    Args:
        path: File to write; its ending is the format.
        runs: Lives by name of the run.
    """
    from matplotlib.figure import Figure

    bars = [(name, number, life) for name, lives in runs.items() for number, life in enumerate(lives, 1)]
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(bars)), layout="constrained")
    axes = figure.subplots()
    labels = [
        f"{pathlib.PurePath(name).name}, start {number}" if len(runs) > 1 else f"start {number}"
        for name, number, _ in bars
    ]
    offsets = [0.0] * len(bars)
    for index, kind in enumerate(KINDS):
        widths = [life.seconds[kind] * life.processes for _, _, life in bars]
        if any(width > 0 for width in widths):
            axes.barh(labels, widths, left=offsets, label=kind, color=f"C{index}")
        offsets = [offset + width for offset, width in zip(offsets, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds of all processes")
    axes.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    with places.written_file(places.parse(path)) as target:
        figure.savefig(target, dpi=120)
