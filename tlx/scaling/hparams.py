"""hparams: learning-rate and batch laws from small runs, and the critical batch size.

Optima come from a smooth surface through all runs of a cell, not from the best run: the argmin of a grid
gives clearly other exponents.
"""

from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.scaling.runs import RunTable, load_runs, require

# Runs further above the lowest loss of their cell than this share bend the quadratic.
_NEAR = 0.15


class Cell(NamedTuple):
    """Best learning rate and batch of runs that share N and D. `why` is empty where they are used."""

    N: float
    D: float
    lr: float
    batch: float
    runs: int
    why: str


def hparams(runs: Any, boot: int = 500, seed: int = 0) -> dict[str, Any]:
    """Laws lr* = c N^p D^q and B* = c N^p D^q from a table with N, D, lr, batch (tokens) and loss.

    Each cell (same N and D) gives the minimum of a quadratic in (ln lr, ln batch) through its runs, or in
    ln lr alone where the batch does not vary. Intervals are a bootstrap over cells. A power of N or D that
    does not vary over the cells is left out.
    """
    table = runs if isinstance(runs, dict) else load_runs(runs)
    require(table, ("N", "D", "lr", "loss"), "hparams")
    cells = [_cell(table, rows) for rows in _cells(table)]
    used = [cell for cell in cells if not cell.why]
    found: dict[str, Any] = {"cells": [cell._asdict() for cell in cells]}
    if len(used) < 2:
        why = "; ".join(sorted({cell.why for cell in cells if cell.why}))
        return found | {"status": f"not identified: {len(used)} cells have a minimum, 2 are needed. {why}"}
    rng = np.random.default_rng(seed)
    for name in ("lr", "batch"):
        values = np.array([getattr(cell, name) for cell in used])
        if np.isfinite(values).all():
            found[name] = _law(used, np.log(values), rng, boot)
    return found | {"status": "ok"}


def _cells(table: RunTable) -> list[np.ndarray]:
    keys = np.stack([np.log(table["N"]), np.log(table["D"])], 1).round(6)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    return [np.flatnonzero(group.ravel() == g) for g in range(int(group.max()) + 1)]


def _cell(table: RunTable, rows: np.ndarray) -> Cell:
    n, d = float(table["N"][rows[0]]), float(table["D"][rows[0]])
    loss = table["loss"][rows]
    rows = rows[loss <= loss.min() * (1 + _NEAR)]
    x = np.log(table["lr"][rows])
    z = np.log(table["batch"][rows]) if "batch" in table else np.zeros(len(rows))
    both = np.ptp(z) > 1e-6
    columns = [np.ones(len(rows)), x, x * x] + ([z, z * z, x * z] if both else [])
    nothing = (n, d, float("nan"), float("nan"), len(rows))
    if len(rows) < len(columns) or len(np.unique(x)) < 3 or (both and len(np.unique(z)) < 3):
        return Cell(*nothing, f"{len(rows)} runs near the best, too few learning rates or batches")
    weights, *_ = np.linalg.lstsq(np.stack(columns, 1), np.log(table["loss"][rows]), rcond=None)
    if both:
        _, bx, cx, bz, cz, cross = weights
        hessian = np.array([[2 * cx, cross], [cross, 2 * cz]])
        if np.linalg.eigvalsh(hessian)[0] <= 0:
            return Cell(*nothing, "the surface has no minimum")
        at = -np.linalg.solve(hessian, [bx, bz])
    else:
        _, bx, cx = weights
        if cx <= 0:
            return Cell(*nothing, "the curve has no minimum")
        at = np.array([-bx / (2 * cx), z[0] if "batch" in table else np.nan])
    inside = x.min() <= at[0] <= x.max() and (not both or z.min() <= at[1] <= z.max())
    why = "" if inside else "the minimum is outside the grid"
    return Cell(n, d, float(np.exp(at[0])), float(np.exp(at[1])), len(rows), why)


def _law(cells: list[Cell], values: np.ndarray, rng: np.random.Generator, boot: int) -> dict[str, Any]:
    n, d = np.log([cell.N for cell in cells]), np.log([cell.D for cell in cells])
    names = [name for name, column in (("N", n), ("D", d)) if np.ptp(column) > 1e-6]
    columns = np.stack([np.ones(len(cells)), *({"N": n, "D": d}[name] for name in names)], 1)
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        names, columns = names[:1], columns[:, :2]
    weights, *_ = np.linalg.lstsq(columns, values, rcond=None)
    draws = []
    for _ in range(boot):
        rows = rng.integers(0, len(cells), len(cells))
        if np.linalg.matrix_rank(columns[rows]) == columns.shape[1]:
            draws.append(np.linalg.lstsq(columns[rows], values[rows], rcond=None)[0])
    found = {
        "coefficient": float(np.exp(weights[0])),
        **dict(zip(names, map(float, weights[1:]), strict=True)),
    }
    if len(draws) > boot / 2:
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        found["ci"] = {name: (float(low[i + 1]), float(high[i + 1])) for i, name in enumerate(names)}
    return found


def critical_batch(batch: Any, steps: Any) -> dict[str, float]:
    """B_crit = E_min / S_min from the steps that runs of several batches need for one loss.

    Steps = S_min (1 + B_crit / batch) (McCandlish et al. 1812.06162), fitted in relative error. Raises
    DataError where steps do not fall with the batch.
    """
    batch, steps = np.asarray(batch, float), np.asarray(steps, float)
    if len(np.unique(batch)) < 3:
        raise DataError(f"{len(np.unique(batch))} batch sizes; at least 3 are needed")
    columns = np.stack([1 / steps, 1 / (batch * steps)], 1)  # relative: each equation divided by its steps
    (least_steps, least_examples), *_ = np.linalg.lstsq(columns, np.ones(len(batch)), rcond=None)
    if least_steps <= 0 or least_examples <= 0:
        raise DataError("the runs do not show a critical batch: steps do not level off within their batches")
    return {
        "critical_batch": float(least_examples / least_steps),
        "least_steps": float(least_steps),
        "least_examples": float(least_examples),
    }


def noise_scale(small: float, large: float, small_square: Any, large_square: Any) -> float:
    """Gradient noise scale tr(Sigma) / |G|^2 from mean squared gradient norms at two batch sizes.

    McCandlish et al. 1812.06162, appendix A.1; unbiased in both parts, so average the norms over steps
    first. In the unit of the batch sizes. Raises DataError where noise hides the gradient.
    """
    one, two = float(np.mean(small_square)), float(np.mean(large_square))
    square = (large * two - small * one) / (large - small)
    trace = (one - two) / (1 / small - 1 / large)
    if square <= 0 or trace <= 0:
        raise DataError("squared norms do not fall with the batch as noise does; average over more steps")
    return trace / square
