"""compare: which of two recipes, objectives or families is better at a larger budget, and how surely."""

from typing import Any

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling import fits
from tlx.scaling.backtesting import backtest
from tlx.scaling.evaluation import predict_log
from tlx.scaling.fits import Fit
from tlx.scaling.laws import get_law


def compare(
    one: Any, two: Any, times: float = 10.0, flops: float | None = None, **settings: Any
) -> dict[str, Any]:
    """Compare the losses of two recipes at one budget, each at its own best size.

    The bootstrap draws of both fits are paired, each moved by a random drift as large as its backtest's.

    Args:
        one: Table of runs of the first recipe, or its fit.
        two: Table or fit of the second, with losses in the same unit.
        times: The budget, in multiples of the smaller of their largest budgets.
        flops: The budget in FLOPs; None for `times`.
        **settings: Passed to tlx.scaling.fit for tables: law, loss, boot, ...

    Returns:
        flops; loss, N and D of both; probability that the first has the lower loss; ratio of the losses and
        its 95% interval (ratio_interval); compute_factor, the compute that the second needs for the first's
        loss.

    Raises:
        ConfigError: A fit has no loss surface or no bootstrap draws.
        DataError: A fit is not identified.
    """
    first, second = (item if isinstance(item, Fit) else fits.fit(item, **settings) for item in (one, two))
    for fit in (first, second):
        fit.check()
        if fit.approach != 3 or fit.draws is None:
            raise ConfigError("compare needs loss surfaces with bootstrap draws: approach=3, boot > 0")
    if flops is None:
        flops = times * min(float(fit.runs["flops"].max()) for fit in (first, second))
    first_losses = _draws_at(first, flops, seed=0)
    second_losses = _draws_at(second, flops, seed=1)
    draws = min(len(first_losses), len(second_losses))
    lower = first_losses[:draws] < second_losses[:draws]
    ratio = first_losses[:draws] / second_losses[:draws]
    ratio_low, ratio_high = np.quantile(ratio, [0.025, 0.975])
    best = [first.optimal(flops), second.optimal(flops)]
    return {
        "flops": flops,
        "loss": [float(optimum.loss) for optimum in best],
        "N": [float(optimum.N) for optimum in best],
        "D": [float(optimum.D) for optimum in best],
        "probability": float(lower.mean()),
        "ratio": float(best[0].loss / best[1].loss),
        "ratio_interval": (float(ratio_low), float(ratio_high)),
        "compute_factor": _compute_factor(best[0].loss, second, flops),
    }


def _draws_at(fit: Fit, flops: float, seed: int) -> np.ndarray:
    """Loss [boot] of every bootstrap draw at its own best size, with a drift drawn for it."""
    n, d = fit.optimal_draws(flops)
    rows = {"N": n, "D": d, "flops": fit.flops_per_token(n) * d}
    # Every draw predicts every row; the diagonal is each draw at its own best size.
    matrix = predict_log(get_law(fit.law), rows, fit.draws if fit.draws is not None else np.empty(0))
    log_losses = np.diagonal(matrix).copy()
    octaves = max(0.0, float(np.log2(flops / fit.runs["flops"].max())))
    drift = backtest(fit).rate * octaves
    return np.exp(log_losses + drift * np.random.default_rng(seed).normal(size=len(log_losses)))


def _compute_factor(loss: float, fit: Fit, flops: float) -> float:
    """Multiple of `flops` at which the fit's best loss is `loss`; NaN where none from 1e-3 to 1e3 is."""
    budgets = flops * np.geomspace(1e-3, 1e3, 601)
    law = get_law(fit.law)
    n, d = law.optimal_sizes(fit.constants(), budgets, fit.flops_per)
    losses = np.exp(predict_log(law, {"N": n, "D": d, "flops": fit.flops_per_token(n) * d}, fit.constants()))
    if not losses.min() <= loss <= losses.max():
        return float("nan")
    return float(np.exp(np.interp(-loss, -losses, np.log(budgets))) / flops)
