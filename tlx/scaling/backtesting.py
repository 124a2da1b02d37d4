"""backtest: the error of a forecast, from laws fitted below every budget and their forecasts above it."""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling import fits
from tlx.scaling.drift import IDENTIFIED, Outlook, log_compute, outlook
from tlx.scaling.fits import Fit
from tlx.scaling.isoflop import group_budgets
from tlx.scaling.laws import get_law
from tlx.scaling.runs import rows_of

# Octaves beyond the table at which a warning measures the drift.
_AHEAD = 3

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
    """Fraction of runs inside the 95% intervals of their forecasts."""


@dataclasses.dataclass
class Backtest:
    """Errors of all folds together."""

    table: list[Octave]
    """Errors by distance."""

    rate: float
    """Root mean square error of the forecasts' ln loss per octave, beyond the noise of single runs."""

    slope: float
    """Mean of ln (predicted / measured) per octave: what the forecasts' own correction for drift leaves."""

    folds: int
    """Number of fits that were tested; 0 where there are too few budgets."""

    warning: str = ""
    """Says that losses drift away from the law over the table; else empty."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self) | {"table": [octave._asdict() for octave in self.table]}


class _Fold(NamedTuple):
    """A forecast from the smaller budgets, against the runs of the larger ones."""

    error: np.ndarray  # ln (predicted / measured) [held out]
    octaves: np.ndarray  # doublings of compute beyond the fit [held out]
    covered: np.ndarray  # whether the 95% interval holds the measured loss [held out]

    @property
    def drift(self) -> float:
        """Slope of the errors per octave, by least squares through the origin."""
        return float((self.error * self.octaves).sum() / (self.octaves**2).sum())


# Reports ask for the backtest of one fit several times; fits are compared by identity.
@functools.lru_cache(maxsize=16)
def backtest(fit: Fit) -> Backtest:
    """Forecast the larger budgets of a fit's own runs from the smaller ones.

    Compute is flops, or the product of the columns of a law that says nothing of them (encoder-decoders, transfer).
    Raises ConfigError for approaches 1 and 2, DataError where the fit is not identified.
    """
    fit.check()
    if fit.approach != 3:
        raise ConfigError("a backtest needs a loss surface: approach=3")
    folds = [fold for split in _splits(fit) if (fold := _fold(fit, *split)) is not None]
    if not folds:
        return Backtest([], 0.0, 0.0, 0, "too few budgets to test an extrapolation")
    error = np.concatenate([fold.error for fold in folds])
    octaves = np.concatenate([fold.octaves for fold in folds])
    covered = np.concatenate([fold.covered for fold in folds])
    return Backtest(
        table=_table(error, octaves, covered),
        rate=_rate(error, octaves, fit.noise),
        slope=float(np.mean([fold.drift for fold in folds])),
        folds=len(folds),
        warning=drift_warning(fit),
    )


def drift_warning(fit: Fit) -> str:
    """Say that losses drift away from the law over the table; empty where no drift is identified."""
    ahead = outlook(fit)
    if ahead.drift_probability < IDENTIFIED:
        return ""
    law = get_law(fit.law)
    text = f"losses drift away from law {law.name} (probability {ahead.drift_probability:.1%})"
    if law.allocation is not None and "flops" in fit.runs:
        budget = 2**_AHEAD * float(fit.runs["flops"].max())
        drift = float(ahead.forecast(fit.optimal_row(budget)).drift[0])
        way = "high" if drift < 0 else "low"
        size = abs(np.expm1(drift / _AHEAD))
        text = (
            f"trend in rollout residuals: extrapolations of the law alone come out {size:.2%} too {way} per octave "
            f"of compute, and forecasts are corrected for it; {text}"
        )
    return (
        text + "; a change of slope, a learning rate that does not suit all sizes or repeated text may be why"
    )


def _splits(fit: Fit) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows below, rows above) at every budget, or at every octave where budgets are many."""
    law = get_law(fit.law)
    compute = log_compute(law, fit.runs)
    groups = group_budgets({"flops": np.exp(compute)})
    if len(groups) > _MAX_BUDGETS:
        octave = np.floor((compute - compute.min()) / np.log(2))
        groups = [np.flatnonzero(octave == o) for o in np.unique(octave)]
    splits = []
    for i in range(2, len(groups)):
        below = np.concatenate(groups[:i])
        above = np.concatenate(groups[i:])
        if len(below) >= len(law.names) + 3:
            splits.append((below, above))
    return splits


def _fold(fit: Fit, below: np.ndarray, above: np.ndarray) -> _Fold | None:
    """Errors of one fold; None where its runs do not determine the constants."""
    law = get_law(fit.law)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = fits.fit(rows_of(fit.runs, below), fit.law, boot=0, starts=40, loss=fit.settings.loss)
    if not part.ok:
        return None
    rows = rows_of(fit.runs, above)
    measured = np.log(rows[law.target])
    forecast = Outlook(part).forecast(rows)
    octaves = (log_compute(law, rows) - log_compute(law, part.runs).max()) / np.log(2)
    covered = (forecast.low <= measured) & (measured <= forecast.high)
    return _Fold(forecast.center - measured, octaves, covered)


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
