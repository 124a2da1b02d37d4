"""Approaches 1 and 2: the best size at each budget, read off curves, and a line through the minima in logs.

Polynomials and splines are of ln loss on ln N. A parabola is biased wherever the two sides of the minimum
differ (alpha != beta): 3 to 14% of D* on grids of +-8x, and up to .07 of the exponent on published sweeps;
so the default is a quartic, or a cubic where there are few points.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import interpolate

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.scaling.runs import RunTable

CURVES = ("auto", "quartic", "cubic", "parabola", "spline", "akima")
_DEGREES = {"quartic": 4, "cubic": 3, "parabola": 2}

_INTERPOLATE = {"spline": interpolate.CubicSpline, "akima": interpolate.Akima1DInterpolator}

# Residuals below this share of the loss are no noise: the points can be interpolated.
_SMOOTH = 3e-4


class Minimum(NamedTuple):
    """The best model at a budget. `edge`: why it is not used; empty where it is."""

    flops: float
    N: float
    D: float
    loss: float
    points: int
    noise: float  # standard deviation of ln loss around the curve
    curve: str
    edge: str


class Line(NamedTuple):
    """y = coefficient * flops ** exponent."""

    coefficient: float
    exponent: float

    def __call__(self, flops: Any) -> Any:
        return self.coefficient * np.asarray(flops, float) ** self.exponent


def group_budgets(runs: RunTable, tolerance: float = 0.1) -> list[np.ndarray]:
    """Indices of the runs of each budget: flops that follow each other within `tolerance` (a share)."""
    order = np.argsort(runs["flops"], kind="stable")
    logs = np.log(runs["flops"][order])
    return np.split(order, np.flatnonzero(np.diff(logs) > np.log1p(tolerance)) + 1)


def minima(runs: RunTable, curve: str = "auto", window: float = np.inf) -> list[Minimum]:
    """The minimum of each budget's curve. `window`: only sizes within this factor of the lowest point.

    A minimum at the edge of its grid, or of fewer than 3 sizes, is marked and holds no number.
    """
    if curve not in CURVES:
        raise ConfigError(one_of("curve", curve, CURVES))
    return [_minimum(runs, rows, curve, window) for rows in group_budgets(runs)]


def fit_lines(found: list[Minimum]) -> tuple[Line, Line]:
    """N*(C) and D*(C) through the minima that are inside their grids. Raises DataError for fewer than 2."""
    inside = [m for m in found if not m.edge]
    if len(inside) < 2:
        why = "; ".join(sorted({m.edge for m in found if m.edge})) or "too few budgets"
        raise DataError(f"{len(inside)} budgets have a minimum inside their grid, 2 are needed ({why})")
    c = np.log([m.flops for m in inside])
    return line(c, np.log([m.N for m in inside])), line(c, np.log([m.D for m in inside]))


def bootstrap_lines(
    runs: RunTable, found: list[Minimum], draws: int, curve: str, seed: int = 0
) -> np.ndarray:
    """[draws, 4]: ln coefficient and exponent of N*(C) and of D*(C), with new noise on every point.

    The noise is that of all curves together, with their degrees of freedom; draws in which a minimum leaves
    its grid use the others.
    """
    inside = [m for m in found if not m.edge]
    noise = pooled_noise(runs)
    rng = np.random.default_rng(seed)
    groups = [rows for rows, m in zip(group_budgets(runs), found, strict=True) if not m.edge]
    result = []
    for _ in range(draws):
        logs = []
        for rows, m in zip(groups, inside, strict=True):
            noisy = np.log(runs["loss"][rows]) + rng.normal(0, noise, len(rows))
            at = _lowest(np.log(runs["N"][rows]), noisy, m.curve)
            if at is not None:
                d = _tokens_at(runs, rows, np.exp(at[0]))
                logs.append((np.log(m.flops), at[0], np.log(d)))
        if len(logs) >= 2:
            c, n, d = np.array(logs).T
            one, two = line(c, n), line(c, d)
            result.append((np.log(one.coefficient), one.exponent, np.log(two.coefficient), two.exponent))
    return np.array(result)


def pooled_noise(runs: RunTable) -> float:
    """Standard deviation of ln loss over all budgets, from what a local cubic leaves of 5 neighbouring sizes.

    (A local curve: over a wide grid no polynomial fits, and its misfit is not noise.)
    """
    squares = []
    for rows in group_budgets(runs):
        order = rows[np.argsort(runs["N"][rows], kind="stable")]
        x, y = np.log(runs["N"][order]), np.log(runs["loss"][order])
        for begin in range(len(x) - 4):
            near = slice(begin, begin + 5)
            powers = np.vander((x[near] - x[near].mean()) / np.ptp(x[near]), 4)
            left = np.linalg.svd(powers)[0][:, 4]  # what no cubic explains
            squares.append(float(left @ y[near]) ** 2)
    return float(np.sqrt(np.mean(squares))) if squares else 0.0


def envelope(runs: RunTable, bins: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Approach 1: (flops, N, D) of the rows with the lowest loss in each of `bins` intervals of ln flops.

    Rows are points of training curves. Only rows below every loss at less compute count, so that the ends
    of the curves do not.
    """
    c = np.log(runs["flops"])
    edges = np.linspace(c.min(), c.max() * (1 + 1e-12), bins + 1)
    best, chosen = np.inf, []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        rows = np.flatnonzero((c >= low) & (c < high))
        if len(rows):
            row = rows[np.argmin(runs["loss"][rows])]
            if runs["loss"][row] < best:
                best = runs["loss"][row]
                chosen.append(row)
    chosen = np.array(chosen, int)
    return runs["flops"][chosen], runs["N"][chosen], runs["D"][chosen]


def line(x: np.ndarray, y: np.ndarray) -> Line:
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return Line(float(np.exp(y.mean() - slope * x.mean())), slope)


def _minimum(runs: RunTable, rows: np.ndarray, curve: str, window: float) -> Minimum:
    flops = float(np.exp(np.log(runs["flops"][rows]).mean()))
    x, y = np.log(runs["N"][rows]), np.log(runs["loss"][rows])
    near = np.abs(x - x[np.argmin(y)]) <= np.log(window) + 1e-9
    x, y, rows = x[near], y[near], rows[near]
    sizes = len(np.unique(x))
    name = _curve_for(x, y) if curve == "auto" else curve
    nothing = (flops, np.nan, np.nan, np.nan, sizes, np.nan, name)
    if sizes < 3:
        return Minimum(*nothing, f"{sizes} sizes, 3 are needed")
    lowest = np.unique(x)[np.argmin([y[x == size].mean() for size in np.unique(x)])]
    if lowest in (x.min(), x.max()):
        side = "smallest" if lowest == x.min() else "largest"
        return Minimum(*nothing, f"the {side} size is the best: the minimum is not bracketed")
    at = _lowest(x, y, name)
    if at is None:
        return Minimum(*nothing, "the curve has no minimum inside the grid")
    degree = min(_DEGREES.get(name, 4), sizes - 2)
    noise = float(np.std(y - _polynomial(x, y, degree)(x))) if sizes > degree + 1 else np.nan
    n = float(np.exp(at[0]))
    return Minimum(flops, n, _tokens_at(runs, rows, n), float(np.exp(at[1])), sizes, noise, name, "")


def _tokens_at(runs: RunTable, rows: np.ndarray, n: float) -> float:
    """Tokens at a size of a budget's curve: interpolated flops per parameter and token."""
    x = np.log(runs["N"][rows])
    order = np.argsort(x)
    ratio = np.log(runs["flops"][rows] / runs["N"][rows] / runs["D"][rows])[order]
    factor = np.exp(np.interp(np.log(n), x[order], ratio))
    return float(np.exp(np.log(runs["flops"][rows]).mean()) / factor / n)


def _curve_for(x: np.ndarray, y: np.ndarray) -> str:
    """quartic; a spline where the points lie on a smooth curve anyway; cubic or a parabola for few."""
    sizes = len(np.unique(x))
    if sizes <= 4:
        return "parabola"
    if sizes <= 6:
        return "cubic"
    if sizes == len(x) and np.std(y - _polynomial(x, y, 4)(x)) < _SMOOTH * np.sqrt((sizes - 5) / sizes):
        return "spline"
    return "quartic"


def _lowest(x: np.ndarray, y: np.ndarray, curve: str) -> tuple[float, float] | None:
    """(ln N, ln loss) of the lowest local minimum strictly inside the points; None without one."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    if curve in _DEGREES:
        degree = min(_DEGREES[curve], len(np.unique(x)) - 1)
        function = _polynomial(x, y, degree)
    else:
        sizes = np.unique(x)
        y = np.array([y[x == size].mean() for size in sizes])
        x = sizes
        function = _INTERPOLATE[curve](x, y)
    grid = np.linspace(x[0], x[-1], 401)
    values = function(grid)
    i = int(np.argmin(values))
    if i in (0, len(grid) - 1):
        return None
    low, high = grid[i - 1], grid[i + 1]
    for _ in range(40):  # golden section: the curve is smooth and has one minimum here
        one, two = low + 0.381966 * (high - low), low + 0.618034 * (high - low)
        low, high = (low, two) if function(one) < function(two) else (one, high)
    at = (low + high) / 2
    return float(at), float(function(at))


def _polynomial(x: np.ndarray, y: np.ndarray, degree: int) -> Any:
    return np.polynomial.Polynomial.fit(x, y, degree)
