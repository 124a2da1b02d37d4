"""Approaches 1 and 2: the best size of each budget, read off curves, and a line through the minima in logs.

Polynomials and splines are of ln loss on ln N. A parabola is biased wherever the two sides of the minimum
differ (alpha != beta): 3 to 14% of D* on grids of +-8x, and up to .07 of the exponent on published sweeps.
Where noise is larger than that, a parabola is the most exact. The default, auto, therefore chooses the
polynomial by the noise, for all budgets together, from the sizes near each minimum, and gives all budgets one shape
where their losses allow it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import interpolate, special

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.scaling.runs import RunTable, rows_of

CURVES = ("auto", "quartic", "cubic", "parabola", "spline", "akima")
_DEGREES = {"quartic": 4, "cubic": 3, "parabola": 2}

_INTERPOLATE = {"spline": interpolate.CubicSpline, "akima": interpolate.Akima1DInterpolator}

# auto uses sizes whose ln loss is at most this far above the lowest of their budget, or this many standard
# deviations of the noise, and in any case the nearest five: far from the minimum no low polynomial fits.
_NEAR = 0.2
_NEAR_SIGMAS = 10.0
_FEWEST = 5

# What a constant of a curve has to lower the squares by, in units of the noise's variance; Akaike's is 2.
_PENALTY = 2.5

# Probability of the parabola's misfit by noise alone below which auto gives the parabola up.
_REJECTED = 0.01

# Variance around the budgets' shared shape, over that of the noise, from which the shape is theirs no more.
_MISFIT = 3.0

# Rounds in which the budgets' shared shape and their minima are found from each other.
_ROUNDS = 4

# Points at which a curve is evaluated to bracket its lowest one.
_GRID = 401

# Widest spread of the runs of one budget, in ln flops.
_SPREAD = np.log(1.25)


class Minimum(NamedTuple):
    """The best model of a budget."""

    flops: float
    """The budget: geometric mean of the runs' training FLOPs."""

    N: float
    """Parameters at the minimum; NaN where `edge` is set."""

    D: float
    """Training tokens at the minimum; NaN where `edge` is set."""

    loss: float
    """Loss at the minimum; NaN where `edge` is set."""

    points: int
    """Number of different sizes."""

    noise: float
    """Standard deviation of ln loss around the curve; NaN where the curve goes through every point."""

    curve: str
    """The curve that was used."""

    edge: str
    """Why the minimum is not used; empty where it is."""


class Line(NamedTuple):
    """y = coefficient * flops ** exponent."""

    coefficient: float
    """y at one FLOP."""

    exponent: float
    """Power of compute."""

    def __call__(self, flops: Any) -> Any:
        """Return y at budgets in FLOPs."""
        return self.coefficient * np.asarray(flops, float) ** self.exponent


def group_budgets(runs: RunTable, tolerance: float = 0.1) -> list[np.ndarray]:
    """Return the row indices of each budget: flops without a gap of more than the fraction `tolerance`.

    A chain of runs without such gaps that spreads over more than a budget does is split at its largest gaps.
    """
    order = np.argsort(runs["flops"], kind="stable")
    logs = np.log(runs["flops"][order])
    ends = [0, *(np.flatnonzero(np.diff(logs) > np.log1p(tolerance)) + 1), len(logs)]
    groups = []
    waiting = list(zip(ends[:-1], ends[1:], strict=True))[::-1]
    while waiting:
        begin, end = waiting.pop()
        inside = logs[begin:end]
        if np.ptp(inside) <= _SPREAD:
            groups.append(order[begin:end])
            continue
        cut = begin + 1 + int(np.argmax(np.diff(inside)))
        waiting += [(cut, end), (begin, cut)]
    return groups


def minima(runs: RunTable, curve: str = "auto", window: float = np.inf) -> list[Minimum]:
    """Find the minimum of each budget's curve.

    A minimum at the edge of its grid, or of fewer than 3 sizes, is marked and holds no number.

    Args:
        runs: Table with N, D, flops and loss.
        curve: One of CURVES; auto chooses by the noise and uses the sizes near each minimum.
        window: Only sizes within this factor of the lowest point are used.

    Returns:
        One minimum per budget, smallest budget first.

    Raises:
        ConfigError: `curve` is unknown.
    """
    if curve not in CURVES:
        raise ConfigError(one_of("curve", curve, CURVES))
    groups = group_budgets(runs)
    if curve != "auto":
        return [_minimum(runs, rows, curve, window) for rows in groups]
    noise = pooled_noise(runs)
    near = [_near_minimum(runs, rows, noise) for rows in groups]
    chosen = _curve_by_noise(runs, near)
    lowest = [_minimum(runs, rows, chosen, window, used) for rows, used in zip(groups, near, strict=True)]
    inside = [i for i, minimum in enumerate(lowest) if not minimum.edge]
    shared = _shared_shape(runs, [near[i] for i in inside], [lowest[i] for i in inside])
    if shared is None:
        return lowest
    log_n, log_loss = shared.lowest(shared.target[None])
    for i, n, loss in zip(inside, np.exp(log_n[0]), np.exp(log_loss[0]), strict=True):
        d = float(_tokens_at(runs, groups[i], n))
        lowest[i] = lowest[i]._replace(N=float(n), D=d, loss=float(loss))
    return lowest


def fit_lines(minima: list[Minimum]) -> tuple[Line, Line]:
    """Fit N*(C) and D*(C) through the minima inside their grids. Raises DataError for fewer than 2."""
    inside = [minimum for minimum in minima if not minimum.edge]
    if len(inside) < 2:
        why = "; ".join(sorted({m.edge for m in minima if m.edge})) or "too few budgets"
        raise DataError(f"{len(inside)} budgets have a minimum inside their grid, 2 are needed ({why})")
    log_flops = np.log([minimum.flops for minimum in inside])
    size_line = line(log_flops, np.log([minimum.N for minimum in inside]))
    token_line = line(log_flops, np.log([minimum.D for minimum in inside]))
    return size_line, token_line


def bootstrap_lines(
    runs: RunTable, minima: list[Minimum], draws: int, seed: int = 0, near: bool = False
) -> np.ndarray:
    """Draw lines by adding new noise to every point.

    The noise is that of all curves together, with their degrees of freedom. A draw in which a minimum leaves
    its grid uses the other minima.

    Args:
        runs: Table with N, D, flops and loss.
        minima: The minima of the table's own curves; each is drawn again with its own curve.
        draws: Number of draws.
        seed: Seed of the noise.
        near: Whether the minima are those of auto, from the sizes near them.

    Returns:
        [draws, 4]: ln coefficient and exponent of N*(C) and of D*(C).
    """
    level = pooled_noise(runs)
    groups = [
        (_near_minimum(runs, rows, level) if near else rows, minimum)
        for rows, minimum in zip(group_budgets(runs), minima, strict=True)
        if not minimum.edge
    ]
    ends = np.cumsum([0, *(len(rows) for rows, _ in groups)])
    noise = np.random.default_rng(seed).normal(0, level, (draws, ends[-1]))
    log_n = np.full((draws, len(groups)), np.nan)
    log_d = np.full((draws, len(groups)), np.nan)
    shared = _shared_shape(runs, [rows for rows, _ in groups], [m for _, m in groups]) if near else None
    if shared is not None:
        log_n = shared.lowest(shared.target + noise)[0]
    for i, (rows, minimum) in enumerate(groups):
        if shared is None:
            noisy = np.log(runs["loss"][rows]) + noise[:, ends[i] : ends[i + 1]]
            log_n[:, i] = _lowest_of_each(np.log(runs["N"][rows]), noisy, minimum.curve)[0]
        log_d[:, i] = np.log(_tokens_at(runs, rows, np.exp(log_n[:, i])))
    log_c = np.log([minimum.flops for _, minimum in groups])
    enough = np.isfinite(log_n).sum(1) >= 2
    return np.hstack([_lines(log_c, log_n[enough]), _lines(log_c, log_d[enough])])


def _lines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares [draws, 2] of each row of y [draws, budgets] on x: value at 0 and slope; NaN is left out."""
    used = np.isfinite(y)
    count = used.sum(1)
    mean_x = (used * x).sum(1) / count
    mean_y = np.where(used, y, 0).sum(1) / count
    from_mean = np.where(used, x - mean_x[:, None], 0)
    slope = (from_mean * np.where(used, y, 0)).sum(1) / (from_mean**2).sum(1)
    return np.stack([mean_y - slope * mean_x, slope], 1)


def log_constants(size_line: Line, token_line: Line) -> tuple[float, float, float, float]:
    """Return ln coefficient and exponent of N*(C) and of D*(C): the vector of approaches 1 and 2."""
    return (
        np.log(size_line.coefficient),
        size_line.exponent,
        np.log(token_line.coefficient),
        token_line.exponent,
    )


def pooled_noise(runs: RunTable) -> float:
    """Estimate the standard deviation of ln loss of one run, over all budgets.

    From the seeds of each size around their mean, and from residuals of local cubics through 5 neighbouring
    sizes: over a wide grid no polynomial fits, and its misfit is not noise.
    """
    squares: list[float] = []
    for rows in group_budgets(runs):
        x, size = np.unique(np.log(runs["N"][rows]), return_inverse=True)
        y = np.log(runs["loss"][rows])
        seeds = np.bincount(size)
        means = np.bincount(size, y) / seeds
        # m seeds around their mean have m - 1 degrees of freedom, each with the variance of one run.
        deviations = np.bincount(size, (y - means[size]) ** 2)
        for total, count in zip(deviations, seeds, strict=True):
            if count > 1:
                squares += [float(total) / (count - 1)] * int(count - 1)
        for begin in range(len(x) - 4):
            near = slice(begin, begin + 5)
            powers = np.vander((x[near] - x[near].mean()) / np.ptp(x[near]), 4)
            orthogonal = np.linalg.svd(powers)[0][:, 4]  # the direction that no cubic explains
            # A mean of m seeds has the variance of one run over m.
            variance = float((orthogonal**2 / seeds[near]).sum())
            squares.append(float(orthogonal @ means[near]) ** 2 / variance)
    return float(np.sqrt(np.mean(squares))) if squares else 0.0


def envelope(runs: RunTable, bins: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (flops, N, D) of the rows on the lower envelope of training curves (approach 1).

    A row is taken per interval of ln flops, of `bins` intervals, where its loss is below every loss at less
    compute; the ends of the curves therefore do not count.
    """
    log_flops = np.log(runs["flops"])
    edges = np.linspace(log_flops.min(), log_flops.max() * (1 + 1e-12), bins + 1)
    best = np.inf
    chosen = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        rows = np.flatnonzero((log_flops >= low) & (log_flops < high))
        if len(rows):
            row = rows[np.argmin(runs["loss"][rows])]
            if runs["loss"][row] < best:
                best = runs["loss"][row]
                chosen.append(row)
    rows = np.array(chosen, int)
    return runs["flops"][rows], runs["N"][rows], runs["D"][rows]


def line(x: np.ndarray, y: np.ndarray) -> Line:
    """Fit a power law by least squares in logs, from ln flops x and ln y."""
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return Line(float(np.exp(y.mean() - slope * x.mean())), slope)


def _near_minimum(runs: RunTable, rows: np.ndarray, noise: float) -> np.ndarray:
    """Rows of a budget whose loss is near its lowest, at this noise; the nearest sizes where those are few."""
    x = np.log(runs["N"][rows])
    y = np.log(runs["loss"][rows])
    near = y - y.min() <= max(_NEAR, _NEAR_SIGMAS * noise)
    if len(np.unique(x[near])) < _FEWEST:
        distance = np.abs(x - x[np.argmin(y)])
        sizes = np.unique(distance)
        near = near | (distance <= sizes[min(_FEWEST, len(sizes)) - 1])
    # Both neighbours of the best size bracket the minimum, however high their losses.
    sizes = np.unique(x)
    best = int(np.searchsorted(sizes, _best_size(x, y)))
    return rows[near | np.isin(x, sizes[max(0, best - 1) : best + 2])]


def _curve_by_noise(runs: RunTable, groups: list[np.ndarray]) -> str:
    """The parabola where noise hides its misfit, else the curve with the least penalised squares, for all budgets.

    Squares are those of ln loss over the noise of single runs. A parabola is given up where an F test against the
    quartic rejects it: the noise is then the quartic's own, with its degrees of freedom, so that few sizes cannot
    pass for little noise.
    """
    squares = {}
    constants = {}
    rows_used = 0
    for name, degree in _DEGREES.items():
        squares[name] = 0.0
        constants[name] = 0
        rows_used = 0
        for rows in groups:
            x = np.log(runs["N"][rows])
            y = np.log(runs["loss"][rows])
            if len(np.unique(x)) < 3:
                continue
            order = _degree(x, degree)
            rest = y - _polynomial(x, y, order)(x)
            squares[name] += float(rest @ rest)
            constants[name] += order + 1
            rows_used += len(x)
    free = rows_used - constants["quartic"]
    added = constants["quartic"] - constants["parabola"]
    if free > 0 and added > 0:
        explained = (squares["parabola"] - squares["quartic"]) / added
        if special.fdtrc(added, free, explained / (squares["quartic"] / free + 1e-30)) > _REJECTED:
            return "parabola"
    near = rows_of(runs, np.concatenate(groups))
    noise = max(min(pooled_noise(runs), pooled_noise(near)), 1e-9)
    return min(_DEGREES, key=lambda name: squares[name] / noise**2 + _PENALTY * constants[name])


def _degree(x: np.ndarray, degree: int) -> int:
    """The degree, or less where that leaves no size over."""
    return max(2, min(degree, len(np.unique(x)) - 2))


def _named(degree: int) -> str:
    return next(name for name, other in _DEGREES.items() if other == degree)


class _SharedShape:
    """Polynomials of several budgets whose powers above the second have one shape.

    Where loss = E + A N^-alpha + B D^-beta, the loss above E over its lowest value of a budget is one function of
    ln N - ln N* at all budgets. Each budget therefore has its own parabola, and higher powers in proportion to its
    curvature: the noise of constants that all budgets share moves all minima alike, and not their exponent.
    Shapes: k budgets, n sizes of all budgets.
    """

    def __init__(self, log_flops: np.ndarray, sizes: list[np.ndarray], target: np.ndarray, degree: int):
        """Bind the budgets. Takes ln FLOPs [k], ln N of each budget, ln loss [n] and the degree, 3 or 4."""
        self.target = target
        self.degree = degree
        self._log_flops = log_flops
        self._sizes = sizes
        self._centers = np.zeros(len(sizes))
        self._proportion = np.ones(len(sizes))

    def settle(self, log_n: np.ndarray) -> bool:
        """Find shape and minima from each other, beginning at minima [k]. Returns whether there are some."""
        for _ in range(_ROUNDS):
            self._centers = np.polyval(np.polyfit(self._log_flops, log_n, 1), self._log_flops)
            curvature = self._constants(self.target[None])[0, : len(self._sizes)]
            if (curvature <= 0).any():
                return False
            trend = np.polyval(np.polyfit(self._log_flops, np.log(curvature), 1), self._log_flops)
            self._proportion = np.exp(trend - trend.mean())
            log_n = self.lowest(self.target[None])[0][0]
            if not np.isfinite(log_n).all():
                return False
        return True

    @property
    def squares(self) -> float:
        """Sum of the squares of ln loss around the curves."""
        residuals = self.target - self._design() @ self._constants(self.target[None])[0]
        return float(residuals @ residuals)

    @property
    def num_constants(self) -> int:
        """Constants of all curves together."""
        return 3 * len(self._sizes) + self.degree - 2

    def lowest(self, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (ln N, ln loss), each [draws, k], at the lowest points for draws of ln loss [draws, n]."""
        constants = self._constants(target)
        budgets = len(self._sizes)
        log_n = np.empty((len(target), budgets))
        log_loss = np.empty((len(target), budgets))
        for i, x in enumerate(self._sizes):
            higher = constants[:, 3 * budgets :] * self._proportion[i]
            powers = np.hstack([higher, constants[:, i : 3 * budgets : budgets]]).T
            u = x - self._centers[i]
            at, value = _lowest_of_polynomials(powers, np.linspace(u.min(), u.max(), _GRID))
            log_n[:, i] = at + self._centers[i]
            log_loss[:, i] = value
        return log_n, log_loss

    def _constants(self, target: np.ndarray) -> np.ndarray:
        """Constants [draws, 3 k + degree - 2]: curvatures, slopes, values, then the higher powers, highest first."""
        return np.linalg.lstsq(self._design(), target.T, rcond=None)[0].T

    def _design(self) -> np.ndarray:
        budgets = len(self._sizes)
        blocks = []
        for i, x in enumerate(self._sizes):
            u = x - self._centers[i]
            block = np.zeros((len(u), self.num_constants))
            block[:, i : 3 * budgets : budgets] = np.vander(u, 3)
            powers = np.arange(self.degree, 2, -1)
            block[:, 3 * budgets :] = self._proportion[i] * u[:, None] ** powers
            blocks.append(block)
        return np.vstack(blocks)


def _shared_shape(runs: RunTable, groups: list[np.ndarray], lowest: list[Minimum]) -> _SharedShape | None:
    """The curves of budgets with one shape; None for parabolas, or where the noise or an F test reject it.

    Args:
        runs: The table.
        groups: Rows near the minimum of each budget.
        lowest: Minimum of each of these budgets' own curves.
    """
    degree = max((_DEGREES[minimum.curve] for minimum in lowest), default=2)
    if degree == 2 or len(lowest) < 3:
        return None
    sizes = [np.log(runs["N"][rows]) for rows in groups]
    target = np.log(runs["loss"][np.concatenate(groups)])
    shared = _SharedShape(np.log([minimum.flops for minimum in lowest]), sizes, target, degree)
    if not shared.settle(np.log([minimum.N for minimum in lowest])):
        return None
    squares = 0.0
    constants = 0
    for rows, x, minimum in zip(groups, sizes, lowest, strict=True):
        y = np.log(runs["loss"][rows])
        order = _DEGREES[minimum.curve]
        residuals = y - _polynomial(x, y, order)(x)
        squares += float(residuals @ residuals)
        constants += order + 1
    free = len(target) - constants
    added = constants - shared.num_constants
    left = shared.squares / max(1, len(target) - shared.num_constants)
    if left > _MISFIT * pooled_noise(runs) ** 2:
        return None
    if free > 0 and added > 0:
        ratio = (shared.squares - squares) / added / (squares / free + 1e-30)
        if special.fdtrc(added, free, max(0.0, ratio)) < _REJECTED:
            return None
    return shared


def _best_size(x: np.ndarray, y: np.ndarray) -> float:
    """The size x with the lowest mean of y."""
    sizes = np.unique(x)
    return float(sizes[np.argmin([y[x == size].mean() for size in sizes])])


def _minimum(
    runs: RunTable, rows: np.ndarray, curve: str, window: float = np.inf, used: np.ndarray | None = None
) -> Minimum:
    """Minimum of a budget of `rows`, from the curve through all of them, or by auto through those `used`."""
    automatic = used is not None
    if used is None:
        used = rows
    flops = float(np.exp(np.log(runs["flops"][rows]).mean()))
    lowest_row = rows[np.argmin(runs["loss"][rows])]
    sizes = len(np.unique(runs["N"][rows]))
    unused = Minimum(flops, np.nan, np.nan, np.nan, sizes, np.nan, curve, "")
    if sizes < 3:
        return unused._replace(edge=f"{sizes} sizes, 3 are needed")
    x = np.log(runs["N"][used])
    y = np.log(runs["loss"][used])
    near = np.abs(x - np.log(runs["N"][lowest_row])) <= np.log(window) + 1e-9
    x = x[near]
    y = y[near]
    used = used[near]
    name = _named(_degree(x, _DEGREES[curve])) if automatic else curve
    lowest_size = _best_size(x, y)
    if lowest_size in (x.min(), x.max()):
        side = "smallest" if lowest_size == x.min() else "largest"
        return unused._replace(edge=f"the {side} size is the best: the minimum is not bracketed")
    lowest = _lowest(x, y, name)
    if lowest is None:
        return unused._replace(edge="the curve has no minimum inside the grid")
    count = len(np.unique(x))
    degree = min(_DEGREES.get(name, 4), count - 2)
    noise = float(np.std(y - _polynomial(x, y, degree)(x))) if count > degree + 1 else np.nan
    n = float(np.exp(lowest[0]))
    return Minimum(
        flops, n, float(_tokens_at(runs, rows, n)), float(np.exp(lowest[1])), sizes, noise, name, ""
    )


def _tokens_at(runs: RunTable, rows: np.ndarray, n: Any) -> Any:
    """Tokens at sizes n on a budget's curve, by interpolated flops per parameter and token."""
    x = np.log(runs["N"][rows])
    order = np.argsort(x)
    ratio = np.log(runs["flops"][rows] / runs["N"][rows] / runs["D"][rows])[order]
    factor = np.exp(np.interp(np.log(n), x[order], ratio))
    return np.exp(np.log(runs["flops"][rows]).mean()) / factor / n


def _lowest(x: np.ndarray, y: np.ndarray, curve: str) -> tuple[float, float] | None:
    """(ln N, ln loss) of the lowest local minimum strictly inside the points; None without one."""
    n, loss = _lowest_of_each(x, y[None], curve)
    return (float(n[0]), float(loss[0])) if np.isfinite(n[0]) else None


def _lowest_of_each(x: np.ndarray, y: np.ndarray, curve: str) -> tuple[np.ndarray, np.ndarray]:
    """(ln N, ln loss), each [draws], at the lowest point of the curve through each row of y [draws, points].

    NaN where it is not strictly inside the points.
    """
    order = np.argsort(x, kind="stable")
    x = x[order]
    y = y[:, order]
    if curve not in _DEGREES:
        lowest = [_lowest_interpolated(x, row, curve) for row in y]
        return np.array([n for n, _ in lowest]), np.array([loss for _, loss in lowest])
    degree = min(_DEGREES[curve], len(np.unique(x)) - 1)
    middle = (x[0] + x[-1]) / 2
    half = (x[-1] - x[0]) / 2
    constants = np.linalg.lstsq(np.vander((x - middle) / half, degree + 1), y.T, rcond=None)[0]
    best, loss = _lowest_of_polynomials(constants, np.linspace(-1, 1, _GRID))
    return middle + half * best, loss


def _lowest_of_polynomials(constants: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place, value), each [draws], of the lowest points of polynomials [powers, draws]; NaN at ends of the grid."""
    lowest = np.argmin(np.vander(grid, len(constants)) @ constants, axis=0)
    inside = (lowest > 0) & (lowest < len(grid) - 1)
    place = np.where(inside, lowest, 1)
    best = _golden(lambda u: np.polyval(constants, u), grid[place - 1], grid[place + 1])
    value = np.polyval(constants, best)
    return np.where(inside, best, np.nan), np.where(inside, value, np.nan)


def _lowest_interpolated(x: np.ndarray, y: np.ndarray, curve: str) -> tuple[float, float]:
    """The lowest point of a curve through the mean of every size; NaN at the ends."""
    sizes = np.unique(x)
    function = _INTERPOLATE[curve](sizes, np.array([y[x == size].mean() for size in sizes]))
    grid = np.linspace(x[0], x[-1], _GRID)
    i = int(np.argmin(function(grid)))
    if i in (0, _GRID - 1):
        return np.nan, np.nan
    best = _golden(function, grid[i - 1], grid[i + 1])
    return float(best), float(function(best))


def _golden(function: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """Minimum by golden section: the curve is smooth and has one minimum between two grid points."""
    for _ in range(40):
        left = low + 0.381966 * (high - low)
        right = low + 0.618034 * (high - low)
        shorter = function(left) < function(right)
        low = np.where(shorter, low, left)
        high = np.where(shorter, right, high)
    return (low + high) / 2


def _polynomial(x: np.ndarray, y: np.ndarray, degree: int) -> Callable[[Any], Any]:
    return np.polynomial.Polynomial.fit(x, y, degree)
