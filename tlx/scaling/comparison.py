"""compare: two recipes, objectives or families at equal compute: which is better further up, how surely."""

from typing import Any

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.fits import Fit, fit, optimal_sizes
from tlx.scaling.laws import get_law, predict_log


def compare(
    one: Any, two: Any, times: float = 10.0, flops: float | None = None, **options: Any
) -> dict[str, Any]:
    """Losses of both at `times` the smaller of their largest budgets (or at `flops`), each at its own best
    size, and the probability that the first is lower.

    one, two: tables of runs in the same unit of loss, or fits. The draws of the two bootstraps are put
    against each other, each moved by a drift as large as its backtest's.
    """
    fits = [item if isinstance(item, Fit) else fit(item, **options) for item in (one, two)]
    for item in fits:
        item.check()
        if item.approach != 3 or item.draws is None:
            raise ConfigError("compare needs loss surfaces with bootstrap draws: approach=3, boot > 0")
    if flops is None:
        flops = times * min(float(item.runs["flops"].max()) for item in fits)
    losses = [_draws_at(item, flops, seed) for seed, item in enumerate(fits)]
    draws = min(map(len, losses))
    lower = losses[0][:draws] < losses[1][:draws]
    ratio = losses[0][:draws] / losses[1][:draws]
    best = [item.optimal(flops) for item in fits]
    return {
        "flops": flops,
        "loss": [float(b.loss) for b in best],
        "N": [float(b.N) for b in best],
        "D": [float(b.D) for b in best],
        "probability": float(lower.mean()),  # that the first has the lower loss
        "ratio": float(best[0].loss / best[1].loss),
        "ratio_interval": tuple(map(float, np.quantile(ratio, [0.025, 0.975]))),
        "compute_factor": _compute_factor(fits, flops),
    }


def _draws_at(item: Fit, flops: float, seed: int) -> np.ndarray:
    law = get_law(item.law)
    n, d = optimal_sizes(law, item.draws, flops, item.flops_per)
    k, s = item.flops_per
    rows = {"N": n, "D": d, "flops": k * n**s * d}
    found = np.diagonal(predict_log(law, rows, item.draws)).copy()  # each draw at its own best size
    octaves = max(0.0, float(np.log2(flops / item.runs["flops"].max())))
    drift = item.backtest().rate * octaves
    return np.exp(found + drift * np.random.default_rng(seed).normal(size=len(found)))


def _compute_factor(fits: list[Fit], flops: float) -> float:
    """How many times the compute the second needs for the first's loss; NaN where none is enough."""
    aim = fits[0].optimal(flops).loss
    budgets = flops * np.geomspace(1e-3, 1e3, 601)
    law, (k, s) = get_law(fits[1].law), fits[1].flops_per
    n, d = optimal_sizes(law, fits[1].theta, budgets, (k, s))
    losses = np.exp(predict_log(law, {"N": n, "D": d, "flops": k * n**s * d}, fits[1].theta))
    if not losses.min() <= aim <= losses.max():
        return float("nan")
    return float(np.exp(np.interp(-aim, -losses, np.log(budgets))) / flops)
