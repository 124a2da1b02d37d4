"""backtest: fits below every budget, predicted above it: what an extrapolation from these runs is worth."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.isoflop import group_budgets, pooled_noise
from tlx.scaling.laws import get_law, predict_log
from tlx.scaling.runs import rows_of

# Mean drift of the folds, in standard deviations, from which it is a trend.
_SURPRISE = 2.0

# Constants of a fold are drawn so often for its intervals.
_DRAWS = 100


class Octave(NamedTuple):
    """Held-out runs so many doublings of compute above their fit."""

    octaves: int  # rounded up
    runs: int
    error: float  # mean |predicted / measured - 1|
    bias: float  # mean predicted / measured - 1
    coverage: float  # of 95% intervals, not widened


@dataclasses.dataclass
class Backtest:
    """Errors of all folds together. rate: root mean square error of ln loss per octave of extrapolation.

    warning: says that errors drift in one direction, so that the law does not hold over the range.
    """

    table: list[Octave]
    rate: float
    slope: float  # mean drift of ln (predicted / measured) per octave
    folds: int
    warning: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        found = dataclasses.asdict(self)
        return found | {"table": [octave._asdict() for octave in self.table]}


def backtest(fit: Any) -> Backtest:
    """Rolls a fit's law forward over the budgets of its own runs."""
    if fit.approach != 3:
        raise ConfigError("a backtest needs a loss surface: approach=3")
    if "flops" not in fit.runs:
        raise ConfigError("a backtest needs the column 'flops'")
    errors, octaves, covered, slopes, scores, folds = [], [], [], [], [], 0
    for below, above in _folds(fit):
        fold = _fold(fit, below, above)
        if fold is None:
            continue
        error, ahead, inside, spread = fold
        folds += 1
        errors.append(error)
        octaves.append(ahead)
        covered.append(inside)
        slopes.append(float((error * ahead).sum() / (ahead**2).sum()))
        scores.append(slopes[-1] / spread)
    if not folds:
        return Backtest([], 0.0, 0.0, 0, "too few budgets to test an extrapolation")
    error, ahead, inside = (np.concatenate(part) for part in (errors, octaves, covered))
    rate = _rate(error, ahead, fit.noise)
    scores = [score * _misfit(fit) for score in scores]
    slope = float(np.mean(slopes))
    return Backtest(_table(error, ahead, inside), rate, slope, folds, _trend(slopes, scores))


def _folds(fit: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows below, rows above) at every budget, or every octave where budgets are many."""
    runs, size = fit.runs, len(get_law(fit.law).names)
    groups = group_budgets(runs)
    if len(groups) > 16:
        c = np.log2(runs["flops"])
        octave = np.floor(c - c.min())
        groups = [np.flatnonzero(octave == o) for o in np.unique(octave)]
    folds = []
    for i in range(2, len(groups)):
        below, above = np.concatenate(groups[:i]), np.concatenate(groups[i:])
        if len(below) >= size + 3:
            folds.append((below, above))
    return folds


def _fold(fit: Any, below: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """(ln predicted / measured, octaves ahead, whether the interval covers, how far the bootstrap lets the
    errors drift per octave), or None without a fit."""
    from tlx.scaling.fits import fit as refit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = refit(rows_of(fit.runs, below), fit.law, 3, fit.loss, _DRAWS, fit.by, starts=40)
    if not part.ok:
        return None
    law, rows = get_law(fit.law), rows_of(fit.runs, above)
    measured = np.log(rows[law.target])
    center = predict_log(law, rows, part.theta)
    draws = predict_log(law, rows, part.draws)
    rng = np.random.default_rng(0)
    inflate = np.sqrt(len(below) / max(1, len(below) - len(law.names)))
    draws = np.concatenate([draws + rng.choice(part.residuals, draws.shape) * inflate for _ in range(5)])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    ahead = np.log2(rows["flops"] / part.runs["flops"].max())
    drift = (draws - center) @ ahead / (ahead @ ahead)
    return center - measured, ahead, (low <= measured) & (measured <= high), float(np.std(drift)) + 1e-12


def _rate(error: np.ndarray, ahead: np.ndarray, noise: float) -> float:
    """Root mean square of what errors per octave exceed the noise of single runs by."""
    excess = max(0.0, float((error**2).sum()) - len(error) * noise**2)
    return float(np.sqrt(excess / (ahead**2).sum()))


def _table(error: np.ndarray, ahead: np.ndarray, inside: np.ndarray) -> list[Octave]:
    relative = np.expm1(error)
    bins = np.ceil(ahead - 1e-9).astype(int)
    return [
        Octave(
            int(o),
            int((bins == o).sum()),
            float(np.abs(relative[bins == o]).mean()),
            float(relative[bins == o].mean()),
            float(inside[bins == o].mean()),
        )
        for o in np.unique(bins)
    ]


def _misfit(fit: Any) -> float:
    """Residuals over the noise between neighbouring sizes of one budget: 1 where the law has the right form.

    A bootstrap takes misfit for noise, and finds no drift remarkable.
    """
    noise = pooled_noise(fit.runs) if "N" in fit.runs else 0.0
    return max(1.0, fit.noise / noise) if noise > 0 else 1.0


def _trend(slopes: list[float], scores: list[float]) -> str:
    """A message where the folds drift one way, by more than their bootstraps allow.

    scores: each fold's drift over the standard deviation that its bootstrap gives it.
    """
    same = max(np.mean(np.array(slopes) > 0), np.mean(np.array(slopes) < 0))
    if len(slopes) < 3 or same < 0.75 or abs(np.mean(scores)) < _SURPRISE:
        return ""
    mean = float(np.mean(slopes))
    way = "high" if mean > 0 else "low"
    return (
        f"trend in rollout residuals: extrapolations come out {abs(np.expm1(mean)):.2%} too {way} per octave "
        "of compute; the law does not hold over the whole range"
    )
