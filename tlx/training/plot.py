"""The loss curve of a run as a PNG."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlx.base import place as places
from tlx.base.place import BucketPath, Place
from tlx.training.journal import read_lines


def plot_loss(
    workdir: str | os.PathLike | BucketPath, title: str, baselines: Mapping[str, float] | None = None
) -> Place:
    """Draw workdir/loss.png from metrics.jsonl: training loss, its moving mean, validation, baselines, resumes.

    Evaluations while training are of the first batches of the split, the final one of all of it: a line joins
    the former only.

    Args:
        workdir: run directory.
        title: of the figure.
        baselines: {name: loss}, in nats per target as the run's losses are.

    Returns:
        The path of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = workdir if isinstance(workdir, BucketPath) else pathlib.Path(workdir)
    lines = [line for line in read_lines(folder / "metrics.jsonl") if line.get("loss")]
    train = _points(lines, "train")
    valid = _points(lines, "validation")
    final = _points(lines, "final")
    figure = Figure(figsize=(7, 4), layout="constrained")
    # The canvas of files: pyplot, which keeps figures and opens windows, is not used.
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*train.T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(train[:, 0], moving_mean(train[:, 1]), color="tab:blue", label="training")
    if len(valid):
        axes.plot(*valid.T, "o-", color="tab:orange", markersize=4, label="validation, first batches")
    if len(final):
        axes.plot(*final.T, "D", color="tab:red", markersize=5, label="validation at the end")
    for i, step in enumerate(resumed_steps(folder)):
        label = "resumed" if i == 0 else None
        axes.axvline(step, color="tab:green", linestyle=(0, (1, 2)), linewidth=1.0, label=label)
    for (name, loss), style in zip((baselines or {}).items(), ("--", ":", "-."), strict=False):
        axes.axhline(loss, color="gray", linestyle=style, label=name)
    axes.set(title=title, xlabel="step", ylabel="loss, nats per target")
    axes.grid(alpha=0.3)
    axes.legend()
    with places.written_folder(folder) as written:
        figure.savefig(written / "loss.png", dpi=120)
    return folder / "loss.png"


def resumed_steps(workdir: Place) -> list[int]:
    """Return the steps from which a run was resumed, in order, each once; those from the beginning left out."""
    events = read_lines(workdir / "events.jsonl")
    return sorted({event["step"] for event in events if event["event"] == "resume" and event["step"] > 0})


def _points(lines: Sequence[Mapping[str, Any]], kind: str) -> np.ndarray:
    """Return (step, loss) of the lines of one kind, [n, 2]."""
    return np.array([(line["step"], line["loss"]) for line in lines if line["kind"] == kind]).reshape(-1, 2)


def moving_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of each value and those before it, over a thirtieth of all of them."""
    window = max(1, math.ceil(len(values) / 30))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
