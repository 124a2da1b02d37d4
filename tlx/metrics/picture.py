"""A confusion matrix to look at."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

_NUMBERED = 20  # classes up to which each cell shows its count


def draw_confusion(counts: np.ndarray, names: Sequence[str], path: str | os.PathLike) -> None:
    """Writes a picture of counts [C, C], rows true, columns predicted, coloured by the share of the row."""
    count = len(names)
    if counts.shape != (count, count):
        raise ValueError(f"counts of shape {counts.shape} do not fit {count} names")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(2.5 + 0.55 * count, 16)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= 60:
        axes.set_xticks(range(count), names, rotation=90 if count > 6 else 0)
        axes.set_yticks(range(count), names)
    if count <= _NUMBERED:
        for (row, column), number in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{number:,}", ha="center", va="center", color=colour)
    figure.savefig(path, dpi=120)
