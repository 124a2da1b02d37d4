"""Prediction of a run's loss by a fit, with an interval from bootstrap, noise and backtest."""

from typing import NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.backtesting import backtest
from tlx.scaling.evaluation import predict_log
from tlx.scaling.fits import Fit
from tlx.scaling.laws import get_law
from tlx.scaling.runs import RunTable


class LossPrediction(NamedTuple):
    """The loss that a fit expects of a run."""

    loss: float
    """Expected loss, in the unit of the table."""

    low: float
    """Lower end of the interval, widened for drift."""

    high: float
    """Upper end of the interval, widened for drift."""

    octaves: float
    """Doublings of compute beyond the largest run of the table; 0 inside its range."""

    drift: float
    """Widening of each end in ln loss: twice the backtest's error per octave, times octaves."""


def predict_loss(
    fit: Fit, N: float = 0.0, D: float = 0.0, interval: float = 0.95, **columns: float
) -> LossPrediction:
    """Predict the loss of a run, with its interval.

    Args:
        fit: An identified fit of approach 3.
        N: Parameters; 0 where the law does not read it.
        D: Training tokens; 0 where the law does not read it.
        interval: Probability that the interval holds the run's measured loss.
        **columns: Other columns that the law reads: flops, D_unique, N_enc, N_dec.

    Returns:
        The loss and its interval: bootstrap of the constants, noise of a run, and drift seen in the backtest.

    Raises:
        ConfigError: The fit has no loss surface, or the law needs another column.
        DataError: The fit is not identified.
    """
    fit.check()
    if fit.approach != 3:
        raise ConfigError(f"approach {fit.approach} has no loss surface; fit with approach=3")
    row = fit.row(N=N, D=D, **columns)
    center = float(predict_log(get_law(fit.law), row, fit.constants())[0])
    octaves = 0.0
    if "flops" in row and "flops" in fit.runs:
        octaves = max(0.0, float(np.log2(row["flops"][0] / fit.runs["flops"].max())))
    drift = 2 * backtest(fit).rate * octaves if octaves > 0 else 0.0
    low, high = _interval(fit, row, center, interval)
    return LossPrediction(
        loss=float(np.exp(center)),
        low=float(np.exp(low - drift)),
        high=float(np.exp(high + drift)),
        octaves=octaves,
        drift=drift,
    )


def _interval(fit: Fit, row: RunTable, center: float, interval: float) -> tuple[float, float]:
    """Quantiles of ln loss over draws of the constants, each with the residual of a random run."""
    rng = np.random.default_rng(0)
    inflate = np.sqrt(len(fit.residuals) / max(1, len(fit.residuals) - len(fit.constants())))
    spread = np.array([center])
    if fit.draws is not None and len(fit.draws):
        spread = predict_log(get_law(fit.law), row, fit.draws)[:, 0]
    noise = rng.choice(fit.residuals, (20, len(spread))) * inflate
    low, high = np.quantile(spread[None] + noise, [(1 - interval) / 2, (1 + interval) / 2])
    return low, high
