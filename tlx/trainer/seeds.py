"""The same fine-tuning from several seeds: mean, standard deviation and worst, and which runs have collapsed.

Fine-tuned models differ only by the order of their data and the initial values of their head; a run that
scores no better than the majority baseline has failed (Mosbach et al. 2021, section 4).
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tlx.base import place as places
from tlx.base.files import read_json, write_json
from tlx.base.place import Place

# A score at most so far above the majority baseline is no better than it.
_NEAR = 0.01


def summarize(workdir: Place, seeds: list[int]) -> dict[str, Any]:
    """Summarise seed-N/scores.json of each seed; writes, draws and prints seeds.json and seeds.png.

    Args:
        workdir: folder of the runs' directories, seed-N.
        seeds: the seeds.

    Returns:
        What seeds.json holds: {split: {"main", "scores", "mean", "deviation", "worst", "best", ...}}.
    """
    runs = {seed: read_json(workdir / f"seed-{seed}" / "scores.json") for seed in seeds}
    splits = {split: _summarize_split(split, runs) for split in next(iter(runs.values()))}
    write_json(workdir / "seeds.json", splits)
    for split, summary in splits.items():
        print(
            f"\n{split}, {len(seeds)} seeds: {summary['main']} {summary['mean']:.4f}, standard deviation "
            f"{summary['deviation']:.4f}, worst {summary['worst']:.4f}, best {summary['best']:.4f}"
        )
        for seed in summary["collapsed"]:
            score = summary["scores"][str(seed)]
            print(
                f"  seed {seed} has COLLAPSED: {score:.4f} is no better than the majority baseline "
                f"({summary['same_answer']:.4f}); try a smaller optimizer.learning_rate, a longer warm-up or "
                "more data.records.epochs"
            )
    with places.written_folder(workdir) as folder:
        _draw(folder / "seeds.png", splits)
    return splits


def _summarize_split(split: str, runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The primary metric of one split over all seeds."""
    scores = {seed: run[split] for seed, run in runs.items()}
    main = next(iter(scores.values()))["main"]
    baseline = float(np.mean([run["same_answer"][0] for run in scores.values()]))
    values = {str(seed): run[main] for seed, run in scores.items()}
    array = np.array(list(values.values()))
    lower = any(run.get("lower_is_better") for run in scores.values())
    least = float(array.min())
    largest = float(array.max())
    collapsed = [
        seed for seed, run in scores.items() if not lower and run[main] <= run["same_answer"][0] + _NEAR
    ]
    return {
        "main": main,
        "scores": values,
        "mean": float(array.mean()),
        "deviation": float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        "worst": largest if lower else least,
        "best": least if lower else largest,
        "same_answer": baseline,
        "collapsed": collapsed,
    }


def _draw(path: pathlib.Path, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw a column of points for each split, its mean, and the majority baseline."""
    figure = Figure(figsize=(2.5 + 1.5 * len(splits), 4), layout="constrained")
    axes = figure.subplots()
    for column, summary in enumerate(splits.values()):
        values = list(summary["scores"].values())
        axes.plot(np.full(len(values), column), values, "o", alpha=0.6)
        axes.plot([column - 0.2, column + 0.2], [summary["mean"]] * 2, "k-")
        axes.plot([column - 0.3, column + 0.3], [summary["same_answer"]] * 2, "r:")
    axes.set_xticks(range(len(splits)), splits)
    axes.set_xlim(-0.5, len(splits) - 0.5)
    axes.set_ylabel(next(iter(splits.values()))["main"])
    figure.savefig(path, dpi=120)
