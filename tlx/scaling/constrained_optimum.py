"""The best run of a budget where the law reads more than N and D: experts, granularity, bits, batch."""

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.evaluation import predict_log
from tlx.scaling.fits import Fit, Optimum
from tlx.scaling.laws import get_law

# Sizes that are compared: eight decades around 20 tokens per parameter, .2% apart.
_DECADES = 4
_SIZES = 8001


def optimal_run(fit: Fit, flops: float, active_fraction: float = 1.0, **columns: float) -> Optimum:
    """Find the best N and D of a budget with the law's other columns given.

    Args:
        fit: An identified fit of approach 3 whose law reads D and N or N_active.
        flops: The budget in training FLOPs, counted as in the table.
        active_fraction: N_active / N, for laws that read both; above 0 and at most 1.
        **columns: The law's other columns: G, P_w, P_a, P_kv, batch.

    Returns:
        The optimum. Its N is all parameters.

    Raises:
        ConfigError: A column is missing or is not the law's, the fraction is not legal, or the law has no budget.
        DataError: The fit is not identified.
    """
    law = get_law(fit.law)
    theta = fit.constants()
    if fit.approach != 3 or "flops" not in fit.runs or not {law.size, "D"} <= set(law.columns):
        raise ConfigError(f"law {law.name!r}, approach {fit.approach}: its loss is no function of a budget")
    if not 0 < active_fraction <= 1:
        raise ConfigError(f"active_fraction = {active_fraction} must be above 0 and at most 1")
    others = [name for name in law.columns if name not in ("N", "N_active", "D", "flops")]
    if set(others) != set(columns):
        raise ConfigError(
            f"law {law.name!r} needs the columns {others or 'N and D alone'}, not {list(columns)}"
        )
    size = np.sqrt(flops / 120) * np.logspace(-_DECADES, _DECADES, _SIZES)
    rows = {law.size: size, "D": flops / fit.flops_per_token(size), "flops": np.full(_SIZES, flops)}
    if law.size == "N_active":
        rows["N"] = size / active_fraction
    rows |= {name: np.full(_SIZES, value) for name, value in columns.items()}
    log_loss = predict_log(law, rows, theta)
    best = int(np.argmin(log_loss))
    if best in (0, _SIZES - 1):
        raise ConfigError(f"flops = {flops:.3g}: the best size lies outside {size[0]:.3g} to {size[-1]:.3g}")
    return Optimum(flops, float(rows["N"][best]), float(rows["D"][best]), float(np.exp(log_loss[best])))
