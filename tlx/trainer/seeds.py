"""The same fine-tuning from several seeds: mean, spread and worst, and which runs have collapsed.

Fine-tuned models differ by the order of their data and the start of their head alone; a run that scores no
better than one answer for every record has failed (Mosbach et al. 2021, 4).
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tlx.base.files import read_json, write_json

_NEAR = 0.01  # of the score, above the same answer for all: no better


def summarize(workdir: pathlib.Path, seeds: list[int]) -> dict[str, Any]:
    """Reads seed-N/scores.json of each seed; writes and shows seeds.json and seeds.png. What it wrote."""
    runs = {seed: read_json(workdir / f"seed-{seed}" / "scores.json") for seed in seeds}
    splits = {split: _split(split, runs) for split in next(iter(runs.values()))}
    write_json(workdir / "seeds.json", splits)
    for split, found in splits.items():
        print(
            f"\n{split}, {len(seeds)} seeds: {found['main']} {found['mean']:.4f}, standard deviation "
            f"{found['deviation']:.4f}, worst {found['worst']:.4f}, best {found['best']:.4f}"
        )
        for seed in found["collapsed"]:
            score = found["scores"][str(seed)]
            print(
                f"  seed {seed} has COLLAPSED: {score:.4f} is no better than the same answer for all "
                f"({found['same_answer']:.4f}); try a smaller optimizer.learning_rate, a longer warm-up or "
                "more data.records.epochs"
            )
    _draw(workdir / "seeds.png", splits)
    return splits


def _split(split: str, runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    scores = {seed: run[split] for seed, run in runs.items()}
    main = next(iter(scores.values()))["main"]
    floor = float(np.mean([run["same_answer"][0] for run in scores.values()]))
    values = {str(seed): run[main] for seed, run in scores.items()}
    array = np.array(list(values.values()))
    lower = any(run.get("lower_is_better") for run in scores.values())
    ends = [float(array.min()), float(array.max())]
    return {
        "main": main,
        "scores": values,
        "mean": float(array.mean()),
        "deviation": float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        "worst": ends[lower],
        "best": ends[not lower],
        "same_answer": floor,
        "collapsed": [
            seed for seed, run in scores.items() if not lower and run[main] <= run["same_answer"][0] + _NEAR
        ],
    }


def _draw(path: pathlib.Path, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """A column of points for each split, its mean, and the same answer for all."""
    figure = Figure(figsize=(2.5 + 1.5 * len(splits), 4), layout="constrained")
    axes = figure.subplots()
    for place, found in enumerate(splits.values()):
        values = list(found["scores"].values())
        axes.plot(np.full(len(values), place), values, "o", alpha=0.6)
        axes.plot([place - 0.2, place + 0.2], [found["mean"]] * 2, "k-")
        axes.plot([place - 0.3, place + 0.3], [found["same_answer"]] * 2, "r:")
    axes.set_xticks(range(len(splits)), splits)
    axes.set_xlim(-0.5, len(splits) - 0.5)
    axes.set_ylabel(next(iter(splits.values()))["main"])
    figure.savefig(path, dpi=120)
