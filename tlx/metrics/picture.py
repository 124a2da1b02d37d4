"""Pictures of a confusion matrix and of calibration."""

import os
from collections.abc import Sequence

import numpy as np

from tlx.metrics.calibration import Reliability

# Up to so many classes each cell shows its count.
_NUMBERED = 20


def draw_confusion(counts: np.ndarray, names: Sequence[str], path: str | os.PathLike) -> None:
    """Draw a confusion matrix, coloured by the fraction of the row.

    Args:
        counts: Examples by true class (rows) and predicted class (columns), int[C, C].
        names: Names of the C classes.
        path: File to write; its suffix is the format.

    Raises:
        ValueError: The shape does not fit the names.
    """
    # Here: a start of tlx that draws nothing does not wait for it.
    from matplotlib.figure import Figure

    count = len(names)
    if counts.shape != (count, count):
        raise ValueError(f"counts of shape {counts.shape} do not fit {count} names")
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(2.5 + 0.55 * count, 16)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="fraction of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= 60:
        axes.set_xticks(range(count), names, rotation=90 if count > 6 else 0)
        axes.set_yticks(range(count), names)
    if count <= _NUMBERED:
        for (row, column), number in np.ndenumerate(counts):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, f"{number:,}", ha="center", va="center", color=colour)
    figure.savefig(path, dpi=120)


def draw_reliability(bins: Reliability, path: str | os.PathLike) -> None:
    """Draw the accuracy of each bin over the mean probability in it, and below the examples of each bin.

    Args:
        bins: The bins, of which empty ones are left out.
        path: File to write; its suffix is the format.
    """
    # Here: a start of tlx that draws nothing does not wait for it.
    from matplotlib.figure import Figure

    filled = bins.counts > 0
    width = 1 / len(bins.counts)
    figure = Figure(figsize=(4.5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], linestyle="--", color="grey", label="probability = accuracy")
    upper.plot(bins.probability[filled], bins.accuracy[filled], marker="o", label="the model")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1)
    upper.set_ylabel("accuracy")
    upper.legend()
    lower.bar((np.arange(len(bins.counts)) + 0.5) * width, bins.counts, width=0.9 * width)
    lower.set_xlabel("probability of the predicted label")
    lower.set_ylabel("examples")
    figure.savefig(path, dpi=120)
