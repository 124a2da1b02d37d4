"""The critical batch size: from steps to a loss, from a ledger of several batches, or from gradient norms."""

from typing import Any

import numpy as np

from tlx.base.errors import DataError
from tlx.scaling.runs import RunTable, rows_of

# Batch sizes that show where steps level off.
_FEWEST_BATCHES = 3


def critical_batch(batch: Any, steps: Any) -> dict[str, float]:
    """Fit the critical batch size from the steps that runs of several batches need for one loss.

    Steps = S_min (1 + B_crit / batch), B_crit = E_min / S_min (McCandlish et al. 1812.06162, equation 5.1),
    fitted in relative error.

    Returns critical_batch and least_examples in the unit of `batch`, and least_steps. Raises DataError where
    steps do not fall with the batch.
    """
    batch = np.asarray(batch, float)
    steps = np.asarray(steps, float)
    if len(np.unique(batch)) < 3:
        raise DataError(f"{len(np.unique(batch))} batch sizes; at least 3 are needed")
    # Each equation is divided by its steps, so that errors are relative.
    columns = np.stack([1 / steps, 1 / (batch * steps)], 1)
    (least_steps, least_examples), *_ = np.linalg.lstsq(columns, np.ones(len(batch)), rcond=None)
    if least_steps <= 0 or least_examples <= 0:
        raise DataError("the runs do not show a critical batch: steps do not level off within their batches")
    return {
        "critical_batch": float(least_examples / least_steps),
        "least_steps": float(least_steps),
        "least_examples": float(least_examples),
    }


def noise_scale(small: float, large: float, small_square: Any, large_square: Any) -> float:
    """Estimate the gradient noise scale tr(Sigma) / |G|^2 from gradient norms at two batch sizes.

    McCandlish et al. 1812.06162, appendix A.1. Both parts are unbiased, their ratio is not: average the
    squared norms over many steps.

    Args:
        small: The smaller batch size.
        large: The larger batch size, in the same unit.
        small_square: Squared norms of the gradient at the smaller batch, a number or one per step.
        large_square: Squared norms at the larger batch.

    Returns:
        The noise scale, in the unit of the batch sizes.

    Raises:
        DataError: Noise hides the gradient.
    """
    mean_small = float(np.mean(small_square))
    mean_large = float(np.mean(large_square))
    square = (large * mean_large - small * mean_small) / (large - small)
    trace = (mean_small - mean_large) / (1 / small - 1 / large)
    if square <= 0 or trace <= 0:
        raise DataError("squared norms do not fall with the batch as noise does; average over more steps")
    return trace / square


def critical_batches(runs: RunTable) -> list[dict[str, float]]:
    """Fit the critical batch size of every N whose runs have several batches, each at two or more lengths.

    The best run (over learning rates) of each batch and number of tokens gives the tokens that a batch needs for the
    loss which every batch reaches, by interpolation in ln D; steps are tokens over the batch.

    Args:
        runs: Table with N, D, loss and batch, in tokens.

    Returns:
        For each such N: N, loss (the target), critical_batch in tokens, least_steps and least_examples (tokens).
        Sizes whose steps do not level off are left out.
    """
    if "batch" not in runs:
        return []
    results = []
    for n in np.unique(runs["N"]):
        part = rows_of(runs, runs["N"] == n)
        curves = {batch: _best_losses(part, batch) for batch in np.unique(part["batch"])}
        curves = {batch: curve for batch, curve in curves.items() if len(curve[0]) >= 2}
        if len(curves) < _FEWEST_BATCHES:
            continue
        # Every batch has to reach the target within its runs.
        target = max(curve[1].min() for curve in curves.values())
        if target > min(curve[1].max() for curve in curves.values()):
            continue
        steps = [np.exp(np.interp(-target, -log_loss, log_d)) / b for b, (log_d, log_loss) in curves.items()]
        try:
            found = critical_batch(list(curves), steps)
        except DataError:
            continue
        results.append({"N": float(n), "loss": float(np.exp(target)), **found})
    return results


def _best_losses(runs: RunTable, batch: float) -> tuple[np.ndarray, np.ndarray]:
    """(ln D, ln loss) of a batch's best run of each number of tokens, with losses that only fall."""
    mine = rows_of(runs, runs["batch"] == batch)
    log_d = np.round(np.log(mine["D"]) / 0.05) * 0.05
    tokens = []
    losses = []
    for value in np.unique(log_d):
        rows = np.flatnonzero(log_d == value)
        best = rows[np.argmin(mine["loss"][rows])]
        if not losses or np.log(mine["loss"][best]) < losses[-1]:
            tokens.append(np.log(mine["D"][best]))
            losses.append(np.log(mine["loss"][best]))
    return np.array(tokens), np.array(losses)
