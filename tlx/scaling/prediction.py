"""Prediction of a run's loss by a fit, with its drift and interval."""

from typing import NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.drift import IDENTIFIED, log_compute, outlook
from tlx.scaling.fits import Fit
from tlx.scaling.laws import get_law


class LossPrediction(NamedTuple):
    """The loss that a fit expects of a run."""

    loss: float
    """Expected loss, in the unit of the table, with the drift."""

    low: float
    """Lower end of the interval."""

    high: float
    """Upper end of the interval."""

    octaves: float
    """Doublings of compute beyond the largest run of the table; 0 inside its range."""

    drift: float
    """Expected ln loss minus that of the law alone: signed, and growing with the distance."""

    drift_probability: float
    """Probability that the table's losses drift from the law; identified from tlx.scaling.drift.IDENTIFIED on."""

    @property
    def note(self) -> str:
        """A sentence where no drift is identified and the run lies beyond the table; else empty."""
        if self.octaves == 0 or self.drift_probability >= IDENTIFIED:
            return ""
        return (
            f"no drift is identified in this table (probability {self.drift_probability:.0%}): the interval holds "
            "where the law does beyond it"
        )


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
        The loss and its interval: constants, noise of a run, drift, and forms of the law, as tlx.scaling.drift weighs
        them.

    Raises:
        ConfigError: The fit has no loss surface, the law needs another column, or `interval` is no probability.
        DataError: The fit is not identified.
    """
    fit.check()
    if fit.approach != 3:
        raise ConfigError(f"approach {fit.approach} has no loss surface; fit with approach=3")
    if not 0 < interval < 1:
        raise ConfigError(f"interval = {interval} must be a probability between 0 and 1")
    row = fit.row(N=N, D=D, **columns)
    ahead = outlook(fit)
    forecast = ahead.forecast(row, interval)
    law = get_law(fit.law)
    largest = log_compute(law, fit.runs).max()
    return LossPrediction(
        loss=float(np.exp(forecast.center[0])),
        low=float(np.exp(forecast.low[0])),
        high=float(np.exp(forecast.high[0])),
        octaves=max(0.0, float((log_compute(law, row)[0] - largest) / np.log(2))),
        drift=float(forecast.drift[0]),
        drift_probability=ahead.drift_probability,
    )
