"""compare: which of two recipes, objectives or families is better at a larger budget, and how surely."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling import fits
from tlx.scaling.drift import outlook
from tlx.scaling.fits import Fit
from tlx.scaling.laws import get_law

# Draws of each forecast.
_DRAWS = 4000


def compare(
    one: Any,
    two: Any,
    times: float = 10.0,
    flops: float | None = None,
    at: Mapping[str, float] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Compare the losses of two recipes at one budget, each at its own best size, or of one run by both.

    Losses are drawn from both forecasts, with constants and drift as tlx.scaling.drift weighs them.

    Args:
        one: Table of runs of the first recipe, or its fit.
        two: Table or fit of the second, with losses in the same unit.
        times: The budget, in multiples of the smaller of their largest budgets.
        flops: The budget in FLOPs; None for `times`.
        at: Columns of the run to compare ({"N_enc": 1e9, "N_dec": 1e9}), for laws without an optimum; None for each
            recipe's best size.
        **settings: Passed to tlx.scaling.fit for tables: law, loss, boot, ...

    Returns:
        loss of both; probability that the first has the lower loss; ratio of the losses and its 95% interval
        (ratio_interval); without `at` also flops, N and D of both, and compute_factor, the compute that the second
        needs for the first's loss.

    Raises:
        ConfigError: A fit has no loss surface, or without `at` its law has no optimum.
        DataError: A fit is not identified.
    """
    first, second = (item if isinstance(item, Fit) else fits.fit(item, **settings) for item in (one, two))
    for fit in (first, second):
        fit.check()
        if fit.approach != 3:
            raise ConfigError("compare needs loss surfaces: approach=3")
        if at is None and get_law(fit.law).allocation is None:
            columns = ", ".join(get_law(fit.law).columns)
            raise ConfigError(
                f"law {fit.law!r} has no optimum for a budget: name the run to compare ({columns})"
            )
    if at is not None:
        flops = None
    elif flops is None:
        flops = times * min(float(fit.runs["flops"].max()) for fit in (first, second))
    rows = []
    losses = []
    draws = []
    for seed, fit in enumerate((first, second)):
        row = fit.row(**at) if at is not None else fit.optimal_row(flops or 0.0)
        rows.append(row)
        losses.append(float(np.exp(outlook(fit).forecast(row).center[0])))
        draws.append(outlook(fit).sample(row, _DRAWS, seed))
    ratio = np.exp(draws[0] - draws[1])
    ratio_low, ratio_high = np.quantile(ratio, [0.025, 0.975])
    result: dict[str, Any] = {
        "loss": losses,
        "probability": float((ratio < 1).mean()),
        "ratio": losses[0] / losses[1],
        "ratio_interval": (float(ratio_low), float(ratio_high)),
    }
    if flops is not None:
        result["flops"] = flops
        result["N"] = [float(row["N"][0]) for row in rows]
        result["D"] = [float(row["D"][0]) for row in rows]
        result["compute_factor"] = _compute_factor(first.optimal(flops).loss, second, flops)
    return result


def _compute_factor(loss: float, fit: Fit, flops: float) -> float:
    """Multiple of `flops` at which the fit's best loss is `loss`; NaN where none from 1e-3 to 1e3 is."""
    budgets = flops * np.geomspace(1e-3, 1e3, 121)
    losses = np.array([fit.optimal(budget).loss for budget in budgets])
    if not losses.min() <= loss <= losses.max():
        return float("nan")
    return float(np.exp(np.interp(-loss, -losses, np.log(budgets))) / flops)
