"""hparams: laws of learning rate, batch and weight decay from small runs.

Optima come from a smooth surface through the runs near the best one of a cell, not from that run: the argmin of a
grid gives clearly different exponents. How near is chosen by the noise: as far from the best run as a quadratic
describes the losses.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from tlx.scaling.critical_batches import critical_batches
from tlx.scaling.runs import RunTable, as_table, require

# Settings whose optimum is sought, where the table has them.
SETTINGS = ("lr", "batch", "weight_decay")

# Windows that are compared: runs further above the lowest loss of their cell than this fraction are not used.
_WINDOWS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15)

# Window without replicates or degrees of freedom that tell the noise.
_DEFAULT_WINDOW = 0.02

# Probability of a quadratic's misfit by noise alone below which its window is too wide.
_REJECTED = 0.01

# Degrees of freedom from which noise is known, and residuals of the smallest window count as noise.
_ENOUGH = 4

# Runs of one cell differ by less than this in ln D: steps are whole numbers.
_SAME_TOKENS = 0.05

# Optima that differ by less than this in their logarithm are one setting.
_SAME_SETTING = 1e-9

# Squared correlation of ln N and ln D over the cells beyond which their powers cannot be told apart.
_CONFOUNDED = 0.97

# Width of a power's 95% interval beyond which it is not identified: at ten times the size it leaves a factor of ten.
_WIDEST_POWER = 1.0


class Cell(NamedTuple):
    """The best settings of the runs that share N and D."""

    N: float
    """Parameters."""

    D: float
    """Training tokens."""

    lr: float
    """Learning rate at the minimum; NaN where there is none."""

    batch: float
    """Batch at the minimum, in tokens; NaN where there is none or the table has no batch."""

    weight_decay: float
    """Weight decay at the minimum; NaN where there is none or the table has none."""

    runs: int
    """Runs near enough to the best one to be used."""

    why: str
    """Why the cell is not used; empty where it is."""


def hparams(runs: Any) -> dict[str, Any]:
    """Fit lr* = c N^p D^q, and the same for the batch and the weight decay.

    Each cell (same N and D) gives the minimum of a quadratic in the logarithms of those settings that vary in it. A
    power of N or D that does not vary over the cells is left out.

    Args:
        runs: Table with N, D, lr, loss and perhaps batch (tokens; a ledger's batch_tokens) and weight_decay, or
            anything that load_runs takes.

    Returns:
        cells; window and noise (standard deviation of ln loss; None where unknown); status, "ok" or why there is no
        law to rely on and what to add; for lr, batch and weight_decay their coefficient, the powers N and D, and ci,
        the powers' 95% intervals by the cells' residuals (Student's t; none where cells and constants are as many);
        and critical_batch by size, where runs of several batches show one.

    Raises:
        DataError: A column is missing or not positive.
    """
    table = as_table(runs)
    settings = [name for name in SETTINGS if name in table]
    require(table, ("N", "D", "loss", *dict.fromkeys(("lr", *settings))), "hparams")
    groups = _cells(table)
    window, noise = _window(table, groups, settings)
    cells = [_cell(table, rows, settings, window) for rows in groups]
    used = [cell for cell in cells if not cell.why]
    result: dict[str, Any] = {"cells": [cell._asdict() for cell in cells], "window": window, "noise": noise}
    result["critical_batch"] = critical_batches(table)
    if len(used) < 2:
        why = "; ".join(sorted({cell.why for cell in cells if cell.why}))
        result["status"] = f"not identified: {len(used)} cells have a minimum, 2 are needed. {why}"
        return result
    confounded = _confounded(used)
    if confounded:
        result["status"] = f"not identified: {confounded}"
        return result
    for name in SETTINGS:
        values = np.array([getattr(cell, name) for cell in used])
        if np.isfinite(values).all():
            result[name] = _law(used, np.log(values))
    result["status"] = _undetermined(result) or "ok"
    return result


def _cells(table: RunTable) -> list[np.ndarray]:
    """Row indices of the runs that share N, and D but for the rounding of steps."""
    groups = []
    for n in np.unique(table["N"]):
        rows = np.flatnonzero(table["N"] == n)
        rows = rows[np.argsort(table["D"][rows], kind="stable")]
        cuts = np.flatnonzero(np.diff(np.log(table["D"][rows])) > _SAME_TOKENS) + 1
        groups += np.split(rows, cuts)
    return groups


def _window(table: RunTable, groups: list[np.ndarray], settings: list[str]) -> tuple[float, float | None]:
    """The widest window in which quadratics describe the losses as well as noise allows, and the noise."""
    misfits = [_misfit(table, groups, settings, window) for window in _WINDOWS]
    variance, free = _replicates(table, groups, settings)
    if free < _ENOUGH:
        known = [(squares / dof, dof) for squares, dof in misfits if dof >= _ENOUGH]
        if not known:
            return _DEFAULT_WINDOW, None
        variance, free = known[0]
    variance = max(variance, 1e-16)
    window = _WINDOWS[0]
    for candidate, (squares, dof) in zip(_WINDOWS, misfits, strict=True):
        if dof == 0 or special.fdtrc(dof, free, squares / dof / variance) > _REJECTED:
            window = candidate
    return window, float(np.sqrt(variance))


def _misfit(
    table: RunTable, groups: list[np.ndarray], settings: list[str], window: float
) -> tuple[float, int]:
    """Squares of ln loss around the cells' quadratics, and their degrees of freedom."""
    squares = 0.0
    free = 0
    for rows in groups:
        near = _near(table, rows, window)
        varying = _varying(table, near, settings)
        columns = _quadratic(table, near, varying)
        if not varying or len(near) <= columns.shape[1]:
            continue
        log_loss = np.log(table["loss"][near])
        rest = log_loss - columns @ np.linalg.lstsq(columns, log_loss, rcond=None)[0]
        squares += float(rest @ rest)
        free += len(near) - columns.shape[1]
    return squares, free


def _replicates(table: RunTable, groups: list[np.ndarray], settings: list[str]) -> tuple[float, int]:
    """Variance of ln loss of runs with the same settings, and its degrees of freedom."""
    squares = 0.0
    free = 0
    for rows in groups:
        keys = np.stack([table[name][rows] for name in settings], 1)
        _, group = np.unique(keys, axis=0, return_inverse=True)
        log_loss = np.log(table["loss"][rows])
        counts = np.bincount(group.ravel())
        means = np.bincount(group.ravel(), log_loss) / counts
        squares += float(((log_loss - means[group.ravel()]) ** 2).sum())
        free += int((counts - 1).sum())
    return (squares / free if free else 0.0), free


def _near(table: RunTable, rows: np.ndarray, window: float) -> np.ndarray:
    """Rows of a cell whose loss is within the window above the lowest."""
    loss = table["loss"][rows]
    return rows[loss <= loss.min() * (1 + window)]


def _varying(table: RunTable, rows: np.ndarray, settings: list[str]) -> list[str]:
    return [name for name in settings if np.ptp(np.log(table[name][rows])) > 1e-6]


def _quadratic(table: RunTable, rows: np.ndarray, varying: list[str]) -> np.ndarray:
    """Columns [n, constants] of a full quadratic in the logarithms of the settings that vary, centred."""
    logs = [np.log(table[name][rows]) for name in varying]
    logs = [x - x.mean() for x in logs]
    columns = [np.ones(len(rows)), *logs]
    for i, x in enumerate(logs):
        columns += [x * z for z in logs[i:]]
    return np.stack(columns, 1)


def _cell(table: RunTable, rows: np.ndarray, settings: list[str], window: float) -> Cell:
    """The minimum of a quadratic through the runs of one cell that are near its best one."""
    near = _near(table, rows, window)
    varying = _varying(table, rows, settings)
    constants = 1 + len(varying) + len(varying) * (len(varying) + 1) // 2
    if len(near) < constants + 2:
        # Too few for the quadratic at this window: the next best runs of the cell are used.
        near = rows[np.argsort(table["loss"][rows], kind="stable")[: constants + 2]]
    nan = float("nan")
    best = int(near[np.argmin(table["loss"][near])])
    unused = Cell(
        float(table["N"][rows[0]]), float(np.median(table["D"][rows])), nan, nan, nan, len(near), ""
    )
    kinds = [len(np.unique(table[name][near])) for name in varying]
    if "lr" not in varying or len(near) < constants or min(kinds) < 3:
        counts = ", ".join(f"{count} of {name}" for name, count in zip(varying, kinds, strict=True))
        return unused._replace(
            why=f"{len(near)} runs near the best, too few values ({counts or 'one of each'})"
        )
    minimum = _minimum(table, near, varying)
    if minimum is None:
        return unused._replace(why="the surface has no minimum")
    values = {name: float(table[name][best]) for name in settings}
    for name, log_value in zip(varying, minimum, strict=True):
        values[name] = float(np.exp(log_value))
        if not table[name][near].min() <= values[name] <= table[name][near].max():
            return unused._replace(why=f"the minimum is outside the grid of {name}")
    return unused._replace(**values)


def _minimum(table: RunTable, rows: np.ndarray, varying: list[str]) -> np.ndarray | None:
    """Logarithms of the settings [k] at the minimum of a quadratic by least squares; None where it has none."""
    columns = _quadratic(table, rows, varying)
    weights, *_ = np.linalg.lstsq(columns, np.log(table["loss"][rows]), rcond=None)
    count = len(varying)
    hessian = np.zeros((count, count))
    upper = np.triu_indices(count)
    hessian[upper] = weights[1 + count :]
    hessian = hessian + hessian.T
    if np.linalg.eigvalsh(hessian)[0] <= 0:
        return None
    centers = np.array([np.log(table[name][rows]).mean() for name in varying])
    return centers - np.linalg.solve(hessian, weights[1 : 1 + count])


def _confounded(cells: list[Cell]) -> str:
    """Why the cells do not tell the powers of N and D apart, and what to add; empty where they do."""
    n = np.log([cell.N for cell in cells])
    d = np.log([cell.D for cell in cells])
    if np.ptp(n) < 1e-6 or np.ptp(d) < _SAME_TOKENS:
        return ""
    correlation = float(np.corrcoef(n, d)[0, 1])
    if correlation**2 < _CONFOUNDED:
        return ""
    power = float(np.polyfit(n, d, 1)[0])
    low = cells[int(np.argmin(n))]
    high = cells[int(np.argmax(n))]
    return (
        f"D goes as N^{power:.2f} in all {len(cells)} cells (correlation {correlation:.2f}), so that the powers of N "
        f"and D cannot be told apart; add the same sweep at N {low.N:.3g}, D {4 * low.D:.3g} and at N {high.N:.3g}, "
        f"D {high.D / 4:.3g}"
    )


def _undetermined(result: dict[str, Any]) -> str:
    """Name the powers that the cells do not determine, and what to add; empty where there are none."""
    wide = [
        f"{name} goes as {column} to the power of {low:.2f} to {high:.2f} (95%)"
        for name in SETTINGS
        for column, (low, high) in result.get(name, {}).get("ci", {}).items()
        if high - low > _WIDEST_POWER
    ]
    if not wide:
        return ""
    return f"not identified: {', '.join(wide)}; add cells that differ more in N and D, or seeds"


def _law(cells: list[Cell], values: np.ndarray) -> dict[str, Any]:
    """Power law of N and D through ln optima, by least squares."""
    logs = {"N": np.log([cell.N for cell in cells]), "D": np.log([cell.D for cell in cells])}
    least = {"N": 1e-6, "D": _SAME_TOKENS}
    # A setting that is the same in all cells, a batch that no ladder swept, has no power.
    varies = np.ptp(values) > _SAME_SETTING
    names = [name for name, column in logs.items() if varies and np.ptp(column) > least[name]]
    columns = np.stack([np.ones(len(cells)), *(logs[name] for name in names)], 1)
    weights, *_ = np.linalg.lstsq(columns, values, rcond=None)
    law: dict[str, Any] = {"coefficient": float(np.exp(weights[0]))}
    law |= dict(zip(names, map(float, weights[1:]), strict=True))
    freedom = len(cells) - columns.shape[1]
    if names and freedom > 0:
        variance = np.sum((values - columns @ weights) ** 2) / freedom
        deviations = np.sqrt(np.diag(variance * np.linalg.inv(columns.T @ columns)))
        half = stats.t.ppf(0.975, freedom) * deviations
        law["ci"] = {
            name: (law[name] - float(half[i]), law[name] + float(half[i]))
            for i, name in enumerate(names, start=1)
        }
    return law
