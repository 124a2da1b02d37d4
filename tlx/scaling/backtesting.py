"""backtest: the error of an extrapolation, from laws fitted below every budget and predicted above it."""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling import fits
from tlx.scaling.evaluation import predict_log
from tlx.scaling.fits import Fit
from tlx.scaling.isoflop import group_budgets, pooled_noise
from tlx.scaling.laws import get_law
from tlx.scaling.runs import rows_of

# Mean drift of the folds, in standard deviations, from which it is called a trend.
_SURPRISE = 2.0

# Bootstrap draws of a fold, for its intervals.
_DRAWS = 100

# Budgets above which folds are made at every octave of compute instead of at every budget.
_MAX_BUDGETS = 16


class Octave(NamedTuple):
    """Errors of the held-out runs at one distance from their fits."""

    octaves: int
    """Doublings of compute above the largest run of the fit, rounded up."""

    runs: int
    """Number of held-out runs, over all folds."""

    error: float
    """Mean |predicted / measured - 1|."""

    bias: float
    """Mean predicted / measured - 1."""

    coverage: float
    """Fraction of runs inside their 95% intervals, which are not widened for drift."""


@dataclasses.dataclass
class Backtest:
    """Errors of all folds together."""

    table: list[Octave]
    """Errors by distance."""

    rate: float
    """Root mean square error of ln loss per octave of extrapolation, beyond the noise of single runs."""

    slope: float
    """Mean drift of ln (predicted / measured) per octave."""

    folds: int
    """Number of fits that were tested; 0 where there are too few budgets."""

    warning: str = ""
    """Says that errors drift in one direction, so that the law does not hold over the range; else empty."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self) | {"table": [octave._asdict() for octave in self.table]}


class _Fold(NamedTuple):
    """A fit to the smaller budgets, against the runs of the larger ones."""

    error: np.ndarray  # ln (predicted / measured) [held out]
    octaves: np.ndarray  # doublings of compute beyond the fit [held out]
    covered: np.ndarray  # whether the 95% interval holds the measured loss [held out]
    drift_spread: float  # standard deviation of the drift per octave over the bootstrap

    @property
    def drift(self) -> float:
        """Slope of the errors per octave, by least squares through the origin."""
        return float((self.error * self.octaves).sum() / (self.octaves**2).sum())


# Forecasts ask for the backtest of one fit many times; fits are compared by identity.
@functools.lru_cache(maxsize=16)
def backtest(fit: Fit) -> Backtest:
    """Roll a fit's law forward over the budgets of its own runs.

    Raises ConfigError for approaches 1 and 2 and for a table without flops.
    """
    if fit.approach != 3:
        raise ConfigError("a backtest needs a loss surface: approach=3")
    if "flops" not in fit.runs:
        raise ConfigError("a backtest needs the column 'flops'")
    folds = [fold for split in _splits(fit) if (fold := _fold(fit, *split)) is not None]
    if not folds:
        return Backtest([], 0.0, 0.0, 0, "too few budgets to test an extrapolation")
    error = np.concatenate([fold.error for fold in folds])
    octaves = np.concatenate([fold.octaves for fold in folds])
    covered = np.concatenate([fold.covered for fold in folds])
    drifts = [fold.drift for fold in folds]
    misfit = _misfit(fit)
    scores = [fold.drift / fold.drift_spread * misfit for fold in folds]
    return Backtest(
        table=_table(error, octaves, covered),
        rate=_rate(error, octaves, fit.noise),
        slope=float(np.mean(drifts)),
        folds=len(folds),
        warning=_trend(drifts, scores),
    )


def _splits(fit: Fit) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows below, rows above) at every budget, or at every octave where budgets are many."""
    size = len(get_law(fit.law).names)
    groups = group_budgets(fit.runs)
    if len(groups) > _MAX_BUDGETS:
        log_flops = np.log2(fit.runs["flops"])
        octave = np.floor(log_flops - log_flops.min())
        groups = [np.flatnonzero(octave == o) for o in np.unique(octave)]
    splits = []
    for i in range(2, len(groups)):
        below = np.concatenate(groups[:i])
        above = np.concatenate(groups[i:])
        if len(below) >= size + 3:
            splits.append((below, above))
    return splits


def _fold(fit: Fit, below: np.ndarray, above: np.ndarray) -> _Fold | None:
    """Errors of one fold; None where its runs do not determine the constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"loss": fit.settings.loss, "by": fit.settings.by}
        part = fits.fit(rows_of(fit.runs, below), fit.law, boot=_DRAWS, starts=40, **settings)
    if not part.ok or part.draws is None:
        return None
    law = get_law(fit.law)
    rows = rows_of(fit.runs, above)
    measured = np.log(rows[law.target])
    center = predict_log(law, rows, part.constants())
    draws = predict_log(law, rows, part.draws)
    octaves = np.log2(rows["flops"] / part.runs["flops"].max())
    drift = (draws - center) @ octaves / (octaves @ octaves)
    # A held-out run has noise of its own: residuals, scaled up for the constants that the fit has used.
    rng = np.random.default_rng(0)
    inflate = np.sqrt(len(below) / max(1, len(below) - len(law.names)))
    noisy = [draws + rng.choice(part.residuals, draws.shape) * inflate for _ in range(5)]
    low, high = np.quantile(np.concatenate(noisy), [0.025, 0.975], axis=0)
    covered = (low <= measured) & (measured <= high)
    return _Fold(center - measured, octaves, covered, float(np.std(drift)) + 1e-12)


def _rate(error: np.ndarray, octaves: np.ndarray, noise: float) -> float:
    """Root mean square of the errors per octave beyond the noise of single runs."""
    excess = max(0.0, float((error**2).sum()) - len(error) * noise**2)
    return float(np.sqrt(excess / (octaves**2).sum()))


def _table(error: np.ndarray, octaves: np.ndarray, covered: np.ndarray) -> list[Octave]:
    relative = np.expm1(error)
    bins = np.ceil(octaves - 1e-9).astype(int)
    rows = []
    for octave in np.unique(bins):
        inside = bins == octave
        rows.append(
            Octave(
                octaves=int(octave),
                runs=int(inside.sum()),
                error=float(np.abs(relative[inside]).mean()),
                bias=float(relative[inside].mean()),
                coverage=float(covered[inside].mean()),
            )
        )
    return rows


def _misfit(fit: Fit) -> float:
    """Residuals over the noise between neighbouring sizes of one budget: 1 where the law has the right form.

    A bootstrap takes misfit for noise, and would find no drift remarkable.
    """
    noise = pooled_noise(fit.runs) if "N" in fit.runs else 0.0
    return max(1.0, fit.noise / noise) if noise > 0 else 1.0


def _trend(drifts: list[float], scores: list[float]) -> str:
    """A message where the folds drift one way by more than their bootstraps allow; else empty.

    scores: each fold's drift over the standard deviation that its bootstrap gives it.
    """
    upwards = np.mean(np.array(drifts) > 0)
    downwards = np.mean(np.array(drifts) < 0)
    if len(drifts) < 3 or max(upwards, downwards) < 0.75 or abs(np.mean(scores)) < _SURPRISE:
        return ""
    mean = float(np.mean(drifts))
    way = "high" if mean > 0 else "low"
    return (
        f"trend in rollout residuals: extrapolations come out {abs(np.expm1(mean)):.2%} too {way} per octave "
        "of compute; the law does not hold over the whole range"
    )
