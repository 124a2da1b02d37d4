"""The loss curve of a run as a PNG."""

import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from tlx.training.journal import read_lines

# Kinds of lines with a validation loss: on a part of the split, and on all of it at the end.
VALIDATION = ("validation", "final")


def plot_loss(
    workdir: str | os.PathLike, title: str, baselines: Mapping[str, float] | None = None
) -> pathlib.Path:
    """Draw workdir/loss.png from metrics.jsonl: training loss, its moving mean, validation, baselines.

    Args:
        workdir: run directory.
        title: of the figure.
        baselines: {name: loss}, in nats per target as the run's losses are.

    Returns:
        The path of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for line in read_lines(pathlib.Path(workdir) / "metrics.jsonl") if line.get("loss")]
    train = np.array([(x["step"], x["loss"]) for x in lines if x["kind"] == "train"]).reshape(-1, 2)
    valid = np.array([(x["step"], x["loss"]) for x in lines if x["kind"] in VALIDATION]).reshape(-1, 2)
    figure = Figure(figsize=(7, 4), layout="constrained")
    # The canvas of files: pyplot, which keeps figures and opens windows, is not used.
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*train.T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(train[:, 0], moving_mean(train[:, 1]), color="tab:blue", label="training")
    if len(valid):
        axes.plot(*valid.T, "o-", color="tab:orange", markersize=4, label="validation")
    for (name, loss), style in zip((baselines or {}).items(), ("--", ":", "-."), strict=False):
        axes.axhline(loss, color="gray", linestyle=style, label=name)
    axes.set(title=title, xlabel="step", ylabel="loss, nats per target")
    axes.grid(alpha=0.3)
    axes.legend()
    path = pathlib.Path(workdir) / "loss.png"
    figure.savefig(path, dpi=120)
    return path


def moving_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of each value and those before it, over a thirtieth of all of them."""
    window = max(1, math.ceil(len(values) / 30))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
