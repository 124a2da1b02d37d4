"""The learning curve of a run directory, and the forecast of its end from its first part."""

import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from tlx.base import place as places
from tlx.base.errors import ConfigError, DataError
from tlx.optim.schedule import make_schedule
from tlx.run.config import parse_config
from tlx.scaling.learning_curves import CurveFit, LearningCurve
from tlx.training.directory import read_run
from tlx.training.journal import read_lines

# Validation losses from which they are used instead of training losses, which have the noise of a batch.
_ENOUGH = 12


def curve_of_run(folder: str | os.PathLike, kind: str | None = None) -> tuple[LearningCurve, str]:
    """Read the losses of a run so far and its learning rates, those to come included.

    Args:
        folder: The run directory.
        kind: "validation" or "train"; None for validation where there are enough of them.

    Returns:
        The curve, and the kind of its losses.

    Raises:
        DataError: The folder holds no run, or the run has no losses of the kind.
    """
    workdir = places.parse(folder)
    saved = read_run(workdir)
    if saved is None:
        raise DataError(f"{os.fspath(folder)} holds no run: it has no run.json")
    config = parse_config(saved["config"])
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if line.get("loss") is not None]
    by_kind = {name: [line for line in lines if line["kind"] == name] for name in ("validation", "train")}
    chosen = kind or ("validation" if len(by_kind["validation"]) >= _ENOUGH else "train")
    if not by_kind.get(chosen):
        raise DataError(f"{os.fspath(folder)} has no losses of kind {chosen!r} in metrics.jsonl")
    # A run that was resumed may hold a step twice: the later line is the one that counts.
    losses = {int(line["step"]): float(line["loss"]) for line in by_kind[chosen] if line["step"] >= 1}
    steps = np.array(sorted(losses))
    schedule = make_schedule(config.optimizer, config.train.steps)
    rates = np.asarray(schedule(jnp.arange(config.train.steps)), float)
    warmup = int(np.argmax(rates >= rates.max() * (1 - 1e-6)))
    return LearningCurve(steps, np.array([losses[step] for step in steps]), rates, warmup), chosen


def forecast_run(
    folder: str | os.PathLike,
    references: Sequence[str | os.PathLike] = (),
    law: str = "multi_power",
    part: float = 1.0,
    interval: float = 0.95,
) -> dict[str, Any]:
    """Forecast the last loss of a run from the first part of its curve.

    Args:
        folder: The run directory.
        references: Other runs that show what a fall of the learning rate does.
        law: One of tlx.scaling.learning_curves.CURVE_LAWS.
        part: Part of the run's steps whose losses may be seen, above 0 and at most 1.
        interval: Probability of the interval.

    Returns:
        kind, law, seen (the last step seen), step (that of the forecast), loss, interval, params; and where the run
        has got there, measured and error (forecast over measured, minus 1).

    Raises:
        ConfigError: An argument is not legal.
        DataError: A folder holds no run, or the curves do not tell the laws' constants.
    """
    if not 0 < part <= 1:
        raise ConfigError(f"part = {part} must be above 0 and at most 1")
    curve, kind = curve_of_run(folder)
    others = [curve_of_run(other, kind)[0] for other in references]
    total = len(curve.rates)
    seen = curve.steps <= part * total
    known = curve._replace(steps=curve.steps[seen], losses=curve.losses[seen])
    fit = CurveFit([known, *others], law)
    step = int(curve.steps[-1]) if not seen.all() else total
    ahead = fit.forecast(np.array([step]), interval)
    result = {
        "kind": kind,
        "law": law,
        "seen": int(known.steps[-1]),
        "step": step,
        "loss": float(ahead.loss[0]),
        "interval": (float(ahead.low[0]), float(ahead.high[0])),
        "params": fit.params,
    }
    if not seen.all():
        result["measured"] = float(curve.losses[-1])
        result["error"] = result["loss"] / result["measured"] - 1
    return result
