"""hparams: learning-rate and batch laws from small runs, and the critical batch size.

Optima come from a smooth surface through all runs of a cell, not from its best run: the argmin of a grid
gives clearly different exponents.
"""

from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.scaling.runs import RunTable, as_table, require

# Runs further above the lowest loss of their cell than this fraction bend the quadratic.
_NEAR = 0.15


class Cell(NamedTuple):
    """The best learning rate and batch of the runs that share N and D."""

    N: float
    """Parameters."""

    D: float
    """Training tokens."""

    lr: float
    """Learning rate at the minimum; NaN where there is none."""

    batch: float
    """Batch at the minimum, in tokens; NaN where there is none or the table has no batch."""

    runs: int
    """Runs near enough to the best one to be used."""

    why: str
    """Why the cell is not used; empty where it is."""


def hparams(runs: Any, boot: int = 500, seed: int = 0) -> dict[str, Any]:
    """Fit lr* = c N^p D^q and B* = c N^p D^q.

    Each cell (same N and D) gives the minimum of a quadratic in (ln lr, ln batch) through its runs, or in
    ln lr alone where the batch does not vary. A power of N or D that does not vary over the cells is left
    out.

    Args:
        runs: Table with N, D, lr, loss and batch (tokens), or anything that load_runs takes.
        boot: Bootstrap draws over cells, for the intervals of the powers.
        seed: Seed of the draws.

    Returns:
        cells; status, "ok" or why there is no law; and for lr and batch their coefficient, the powers N and
        D, and ci, the powers' 95% intervals.

    Raises:
        DataError: A column is missing or not positive.
    """
    table = as_table(runs)
    columns = ("N", "D", "lr", "loss", "batch") if "batch" in table else ("N", "D", "lr", "loss")
    require(table, columns, "hparams")
    cells = [_cell(table, rows) for rows in _cells(table)]
    used = [cell for cell in cells if not cell.why]
    result: dict[str, Any] = {"cells": [cell._asdict() for cell in cells]}
    if len(used) < 2:
        why = "; ".join(sorted({cell.why for cell in cells if cell.why}))
        result["status"] = f"not identified: {len(used)} cells have a minimum, 2 are needed. {why}"
        return result
    rng = np.random.default_rng(seed)
    for name in ("lr", "batch"):
        values = np.array([getattr(cell, name) for cell in used])
        if np.isfinite(values).all():
            result[name] = _law(used, np.log(values), rng, boot)
    result["status"] = "ok"
    return result


def _cells(table: RunTable) -> list[np.ndarray]:
    """Row indices of the runs that share N and D."""
    keys = np.stack([np.log(table["N"]), np.log(table["D"])], 1).round(6)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    return [np.flatnonzero(group.ravel() == g) for g in range(int(group.max()) + 1)]


def _cell(table: RunTable, rows: np.ndarray) -> Cell:
    """The minimum of a quadratic through the runs of one cell."""
    n = float(table["N"][rows[0]])
    d = float(table["D"][rows[0]])
    loss = table["loss"][rows]
    rows = rows[loss <= loss.min() * (1 + _NEAR)]
    unused = Cell(n, d, float("nan"), float("nan"), len(rows), "")
    log_lr = np.log(table["lr"][rows])
    log_loss = np.log(table["loss"][rows])
    log_batch = np.log(table["batch"][rows]) if "batch" in table else np.full(len(rows), np.nan)
    vary = "batch" in table and np.ptp(log_batch) > 1e-6
    coefficients = 6 if vary else 3
    few = len(rows) < coefficients or len(np.unique(log_lr)) < 3
    if few or (vary and len(np.unique(log_batch)) < 3):
        return unused._replace(why=f"{len(rows)} runs near the best, too few learning rates or batches")
    if vary:
        minimum = _paraboloid_minimum(log_lr, log_batch, log_loss)
        if minimum is None:
            return unused._replace(why="the surface has no minimum")
    else:
        lowest = _parabola_minimum(log_lr, log_loss)
        if lowest is None:
            return unused._replace(why="the curve has no minimum")
        minimum = np.array([lowest, log_batch[0]])
    inside = log_lr.min() <= minimum[0] <= log_lr.max()
    if vary:
        inside = inside and log_batch.min() <= minimum[1] <= log_batch.max()
    why = "" if inside else "the minimum is outside the grid"
    return Cell(n, d, float(np.exp(minimum[0])), float(np.exp(minimum[1])), len(rows), why)


def _paraboloid_minimum(x: np.ndarray, z: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """(x, z) of the minimum of a quadratic surface by least squares; None where it has none."""
    columns = np.stack([np.ones(len(x)), x, x * x, z, z * z, x * z], 1)
    weights, *_ = np.linalg.lstsq(columns, y, rcond=None)
    _, slope_x, curve_x, slope_z, curve_z, cross = weights
    hessian = np.array([[2 * curve_x, cross], [cross, 2 * curve_z]])
    if np.linalg.eigvalsh(hessian)[0] <= 0:
        return None
    return -np.linalg.solve(hessian, [slope_x, slope_z])


def _parabola_minimum(x: np.ndarray, y: np.ndarray) -> float | None:
    """Minimum x of a parabola by least squares; None where it has none."""
    columns = np.stack([np.ones(len(x)), x, x * x], 1)
    weights, *_ = np.linalg.lstsq(columns, y, rcond=None)
    _, slope, curve = weights
    return None if curve <= 0 else -slope / (2 * curve)


def _law(cells: list[Cell], values: np.ndarray, rng: np.random.Generator, boot: int) -> dict[str, Any]:
    """Power law of N and D through ln optima, with intervals from a bootstrap over cells."""
    logs = {"N": np.log([cell.N for cell in cells]), "D": np.log([cell.D for cell in cells])}
    names = [name for name, column in logs.items() if np.ptp(column) > 1e-6]
    columns = np.stack([np.ones(len(cells)), *(logs[name] for name in names)], 1)
    # N and D that move together leave one power.
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        names = names[:1]
        columns = columns[:, :2]
    weights, *_ = np.linalg.lstsq(columns, values, rcond=None)
    draws = []
    for _ in range(boot):
        rows = rng.integers(0, len(cells), len(cells))
        if np.linalg.matrix_rank(columns[rows]) == columns.shape[1]:
            draws.append(np.linalg.lstsq(columns[rows], values[rows], rcond=None)[0])
    law: dict[str, Any] = {"coefficient": float(np.exp(weights[0]))}
    law |= dict(zip(names, map(float, weights[1:]), strict=True))
    if len(draws) > boot / 2:
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        law["ci"] = {name: (float(low[i + 1]), float(high[i + 1])) for i, name in enumerate(names)}
    return law


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
