"""fit: from a table of runs to the constants of a law, their intervals, and whether the data determine them.

Functions of a Fit stand in modules of their own: prediction.py, backtesting.py, sensitivity.py, forecast.py,
suggestions.py, comparison.py, reporting.py.
"""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.scaling import identification, isoflop
from tlx.scaling.evaluation import Problem, predict_log
from tlx.scaling.law_form import Law
from tlx.scaling.laws import LAWS, get_law
from tlx.scaling.runs import RunTable, as_table, clusters, rows_of, with_convention
from tlx.scaling.solver import Loss, Solution, parse_loss, polish, solve
from tlx.scaling.table_checks import check, reason, warn_of_outliers

# Draws that are made in any case for a law whose constants are hard to tell apart.
_MIN_DRAWS = 100

# Rows of a table above which its iso-FLOP minima are no longer read as a cross-check of a loss surface.
_MAX_CHECKED = 5000

# Rows of a table on which all starts are solved; the best one is then polished on the whole table.
_MOST_SORTED = 5_000

# A forecast is not determined where 95% of the bootstrap draws differ in N* or in the loss by more than these
# factors, or where the loss surface and well-determined iso-FLOP minima differ by more than _APART in N*.
_WIDE_SIZE = 25.0
_WIDE_LOSS = 1.25
_APART = 3.0
_DETERMINED = 10.0


class Optimum(NamedTuple):
    """The compute-optimal way to spend a budget."""

    flops: float
    """The budget in training FLOPs."""

    N: float
    """Parameters."""

    D: float
    """Training tokens."""

    loss: float
    """Loss there; NaN where a fit has no loss surface (approaches 1 and 2)."""


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """Settings of a fit besides the table."""

    law: str = "chinchilla"
    """Name in tlx.scaling.laws.LAWS."""

    approach: int = 3
    """1: envelope of training curves. 2: minima of iso-FLOP curves. 3: loss surface. 1 and 2 are for the law
    chinchilla."""

    loss: str = "huber:1e-3"
    """Loss of the residuals: huber:DELTA, lad, l2 or l2:plain; see tlx.scaling.solver.parse_loss."""

    boot: int = 1000
    """Bootstrap draws; 0 for no intervals."""

    by: str | None = None
    """Column whose values the bootstrap draws; None draws whole runs."""

    convention: str = "given"
    """Convention by which N and FLOPs are counted; see tlx.scaling.runs.with_convention."""

    curve: str = "auto"
    """Curve of approach 2, one of tlx.scaling.isoflop.CURVES."""

    starts: int = 200
    """Starting points of the solver (approach 3)."""

    seed: int = 0
    """Seed of the starts and of the bootstrap."""

    times: float = 10.0
    """The forecast that the constants have to determine, in multiples of the largest run's compute."""

    flops: float | None = None
    """The same forecast as a budget in FLOPs; None for `times`."""


@dataclasses.dataclass(eq=False)
class Fit:
    """A fitted law. Constants are there only where `status` is "ok"."""

    settings: FitSettings
    """Settings of the fit."""

    runs: RunTable
    """The table, with N and flops by the settings' convention."""

    flops_per: tuple[float, float] = (6.0, 1.0)
    """(k, s) of flops = k N^s D in this table."""

    status: str = "ok"
    """"ok", or "not identified: " and why."""

    params: dict[str, float] | None = None
    """Constants as they are published."""

    ci: dict[str, tuple[float, float]] | None = None
    """95% bootstrap intervals of the constants, and of the exponents "a" and "b"; None without draws."""

    exponents: tuple[float, float] | None = None
    """(a, b) of N* ~ C^a and D* ~ C^b; None for a law without an optimum."""

    theta: np.ndarray | None = None
    """Vector of constants [p] in the order of Law.names (approach 3) or of isoflop.log_constants."""

    draws: np.ndarray | None = None
    """Constants [boot, p] of the bootstrap."""

    residuals: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    """Residuals [rows] of ln loss: measured minus fitted (approach 3)."""

    noise: float = 0.0
    """Standard deviation of ln loss around the fit."""

    objective: float | None = None
    """Sum of the losses of all rows (approach 3)."""

    agreeing: int = 0
    """Starts that ended within 1e-4 of the best objective."""

    gradient: float = 0.0
    """Relative norm of the gradient at the end."""

    minima: list[isoflop.Minimum] = dataclasses.field(default_factory=list)
    """Minima of the budgets' curves (approach 2)."""

    @property
    def law(self) -> str:
        """Name of the law."""
        return self.settings.law

    @property
    def approach(self) -> int:
        """1, 2 or 3; only 3 has a loss surface."""
        return self.settings.approach

    @property
    def ok(self) -> bool:
        """Whether the data determine the constants."""
        return self.status == "ok"

    @functools.cached_property
    def cross_check(self) -> "Fit | None":
        """The iso-FLOP minima (approach 2) of a loss surface's own runs; None where the law or the table has none."""
        needed = {"N", "D", "flops", "loss"}
        if self.approach != 3 or not get_law(self.law).isoflop or not needed <= self.runs.keys():
            return None
        if len(self.runs["loss"]) > _MAX_CHECKED:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = dataclasses.replace(self.settings, approach=2)
            return _fit_lines(Fit(settings, self.runs, self.flops_per))

    def unsettled(self, flops: float) -> str:
        """Say why the constants do not determine the forecast of a budget in FLOPs; empty where they do.

        The draws may differ too much in N* or in the loss there, or the iso-FLOP minima of the same runs may give
        another N*. Empty without bootstrap draws and for a law without an optimum.
        """
        if self.approach != 3 or self.draws is None or self.exponents is None:
            return ""
        at = f"the forecast for {flops:.3g} FLOP is not determined"
        low, high = _quantiles(self.optimal_draws(flops)[0])
        if high > _WIDE_SIZE * low:
            return f"{at}: N* lies anywhere from {low:.3g} to {high:.3g}"
        losses = np.exp(predict_log(get_law(self.law), self.optimal_row(flops), self.draws)[:, 0])
        low, high = _quantiles(losses)
        if high > _WIDE_LOSS * low:
            return f"{at}: the loss lies anywhere from {low:.4g} to {high:.4g}"
        other = self.cross_check
        if other is None or not other.ok or other.exponents is None or other.draws is None:
            return ""
        low, high = _quantiles(other.optimal_draws(flops)[0])
        size = self.optimal(flops).N
        minima = other.optimal(flops).N
        if high > _DETERMINED * low or max(size / minima, minima / size) <= _APART:
            return ""
        return (
            f"{at}: N* is {size:.3g} by the loss surface (exponent {self.exponents[0]:.3g}) and {minima:.3g} by the "
            f"iso-FLOP minima (exponent {other.exponents[0]:.3g})"
        )

    def check(self) -> "Fit":
        """Return the fit itself. Raises DataError where it is not identified."""
        if not self.ok:
            raise DataError(f"law {self.law}: {self.status}")
        return self

    def constants(self) -> np.ndarray:
        """Return the vector of constants [p]. Raises DataError where the fit is not identified."""
        self.check()
        if self.theta is None:
            raise DataError(f"law {self.law}: the fit holds no constants")
        return self.theta

    def flops_per_token(self, N: Any) -> Any:
        """Return the training FLOPs k N^s of a token, as the table counts them."""
        k, s = self.flops_per
        return k * N**s

    def optimal(self, flops: float) -> Optimum:
        """Return the best N and D for a budget in training FLOPs.

        Raises DataError where the fit is not identified, ConfigError for a law without an optimum.
        """
        theta = self.constants()
        if self.approach != 3:
            size_line = isoflop.Line(float(np.exp(theta[0])), theta[1])
            token_line = isoflop.Line(float(np.exp(theta[2])), theta[3])
            return Optimum(flops, float(size_line(flops)), float(token_line(flops)), float("nan"))
        row = self.optimal_row(flops)
        loss = float(np.exp(predict_log(get_law(self.law), row, theta)[0]))
        return Optimum(flops, float(row["N"][0]), float(row["D"][0]), loss)

    def optimal_row(self, flops: float) -> RunTable:
        """Return a table of one row: the best run for a budget by the loss surface, with as much text as it wants.

        Raises DataError where the fit is not identified, ConfigError for a law without an optimum.
        """
        law = get_law(self.law)
        n, d = law.optimal_sizes(self.constants(), flops, self.flops_per)
        columns = {"N": float(n), "D": float(d)}
        if law.repeated:
            columns["D_unique"] = columns["D"]
        return self.row(**columns)

    def optimal_draws(self, flops: float) -> tuple[np.ndarray, np.ndarray]:
        """Return (N*, D*), each [boot], of every bootstrap draw. Raises DataError for a fit without draws."""
        if self.draws is None:
            raise DataError(f"law {self.law}: the fit has no bootstrap draws; fit with boot > 0")
        if self.approach == 3:
            return get_law(self.law).optimal_sizes(self.draws, flops, self.flops_per)
        log_flops = np.log(flops)
        n = np.exp(self.draws[:, 0] + self.draws[:, 1] * log_flops)
        d = np.exp(self.draws[:, 2] + self.draws[:, 3] * log_flops)
        return n, d

    def row(self, **columns: float) -> RunTable:
        """Return a table of one row for a prediction, with flops where N and D are given.

        Columns of value 0 count as not given. Raises ConfigError naming the columns that the law lacks.
        """
        row = {name: np.array([float(value)]) for name, value in columns.items() if value}
        law = get_law(self.law)
        if "flops" not in row and {law.size, "D"} <= row.keys():
            row["flops"] = self.flops_per_token(row[law.size]) * row["D"]
        missing = [name for name in law.columns if name not in row]
        if missing:
            raise ConfigError(f"law {self.law!r} needs {', '.join(missing)} to predict")
        return row

    def to_dict(self) -> dict[str, Any]:
        """Return plain values in full precision, without constants where they are not identified."""
        values: dict[str, Any] = {
            "law": self.law,
            "approach": self.approach,
            "loss": self.settings.loss,
            "status": self.status,
            "convention": self.settings.convention,
            "runs": len(self.runs.get("loss", ())),
        }
        if not self.ok:
            return values
        values["params"] = self.params
        values["exponents"] = self.exponents
        values["ci"] = self.ci
        values["noise"] = self.noise
        if self.approach == 3:
            values["objective"] = self.objective
            values["starts"] = self.settings.starts
            values["agreeing"] = self.agreeing
            values["gradient"] = self.gradient
        else:
            values["minima"] = [minimum._asdict() for minimum in self.minima]
        return values


def fit(runs: Any, law: str = "chinchilla", **settings: Any) -> Fit:
    """Fit a law to a table of runs.

    Args:
        runs: Columns, or anything that tlx.scaling.load_runs takes.
        law: Name of the law.
        **settings: Other fields of FitSettings: approach, loss, boot, by, convention, curve, starts, seed, times,
            flops.

    Returns:
        The fit. Data that do not determine the constants give a Fit whose status says why, with a warning.

    Raises:
        ConfigError: A setting is not legal.
        DataError: The table lacks a column or has values that the law cannot describe.
    """
    chosen = FitSettings(law=law, **settings)
    if chosen.boot < 0 or chosen.starts < 1:
        raise ConfigError(f"boot = {chosen.boot} must be at least 0, starts = {chosen.starts} at least 1")
    if not 0 < (chosen.times if chosen.flops is None else chosen.flops) < np.inf:
        raise ConfigError(f"times = {chosen.times} and flops = {chosen.flops} must be positive and finite")
    table = with_convention(as_table(runs), chosen.convention)
    known = get_law(law)
    if chosen.approach not in (1, 2, 3) or (chosen.approach != 3 and not known.isoflop):
        able = ", ".join(repr(name) for name, other in LAWS.items() if other.isoflop)
        raise ConfigError(
            f"approach = {chosen.approach} with law = {law!r}: 1 and 2 are for {able}, 3 for all"
        )
    parse_loss(chosen.loss)
    check(table, known, chosen.approach)
    result = Fit(chosen, table)
    if {known.size, "D", "flops"} <= table.keys():
        result.flops_per = _flops_per(table, known.size)
    if chosen.approach == 3:
        return _fit_surface(result, known)
    return _fit_lines(result)


def _flops_per(runs: RunTable, size: str) -> tuple[float, float]:
    """Constants k and s of flops = k N^s D, N the column `size`: 6 and 1 for the usual count, else fitted."""
    ratio = np.log(runs["flops"] / runs["D"])
    n = np.log(runs[size])
    if np.ptp(ratio - n) < 1e-3 or np.ptp(n) < 1e-9:
        k = float(np.exp((ratio - n).mean()))
        return (6.0 if abs(k / 6 - 1) < 1e-6 else k), 1.0
    slope, offset = np.polyfit(n, ratio, 1)
    return float(np.exp(offset)), float(slope)


def _fit_surface(result: Fit, law: Law) -> Fit:
    """Approach 3: constants of the loss surface from many starts, checked and bootstrapped."""
    settings = result.settings
    loss = parse_loss(settings.loss)
    problem = Problem(law, result.runs)
    rows = len(problem.target)
    if rows <= problem.size - ("" in law.names):
        return _not_identified(result, f"{rows} runs for {problem.size} constants")
    best, result.agreeing = _best_of_starts(problem, loss, settings)
    phi = best.phi[0]
    objective = float(best.objective[0])
    result.objective = objective
    result.gradient = float(best.gradient[0])
    theta = problem.outside(phi)
    result.theta = theta
    why = identification.undetermined(problem, loss, phi)
    if why:
        return _not_identified(result, why)
    prediction, _ = problem.evaluate(phi[None])
    result.residuals = problem.target - prediction[0]
    result.noise = float(np.std(result.residuals) * np.sqrt(rows / (rows - problem.size)))
    warn_of_outliers(result.runs, result.residuals)
    if settings.boot or law.repeated:
        groups = clusters(result.runs, settings.by)
        draws = settings.boot or _MIN_DRAWS
        result.draws, why = identification.bootstrap(problem, loss, phi, groups, draws, settings.seed)
        if why:
            return _not_identified(result, why)
    result.params = {name: float(value) for name, value in law.params(theta).items()}
    exponents = law.optimal_exponents(theta, result.flops_per)
    if exponents is not None:
        result.exponents = (float(exponents[0]), float(exponents[1]))
    if result.draws is not None:
        result.ci = _surface_intervals(law, result.draws, result.flops_per)
        why = result.unsettled(_asked(result)) if "flops" in result.runs else ""
        if why:
            return _not_identified(result, why)
    return result


def _best_of_starts(problem: Problem, loss: Loss, settings: FitSettings) -> tuple[Solution, int]:
    """The best minimum over all starts, and how many of them end there; a sample of a large table sorts them out."""
    rows = len(problem.target)
    part = problem
    if rows > _MOST_SORTED:
        chosen = np.sort(np.random.default_rng(settings.seed).choice(rows, _MOST_SORTED, replace=False))
        part = Problem(problem.law, rows_of(problem.runs, chosen))
    coarse = solve(part, loss, part.starts(settings.starts, settings.seed), iterations=80, tolerance=1e-9)
    best = polish(part, loss, coarse.phi[np.argmin(coarse.objective)])
    agreeing = int((coarse.objective <= best.objective[0] * (1 + 1e-4) + 1e-20).sum())
    if part is not problem:
        best = polish(problem, loss, problem.inside(part.outside(best.phi[0])))
    return best, agreeing


def _asked(result: Fit) -> float:
    """Budget of the forecast that the settings ask for."""
    settings = result.settings
    return settings.flops or settings.times * float(result.runs["flops"].max())


def _surface_intervals(
    law: Law, draws: np.ndarray, flops_per: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    intervals = {name: _quantiles(values) for name, values in law.params(draws).items()}
    exponents = law.optimal_exponents(draws, flops_per)
    if exponents is not None:
        intervals["a"] = _quantiles(exponents[0])
        intervals["b"] = _quantiles(exponents[1])
    return intervals


def _fit_lines(result: Fit) -> Fit:
    """Approaches 1 and 2: power laws N*(C) and D*(C) through an envelope or through iso-FLOP minima."""
    settings = result.settings
    if settings.approach == 2:
        result.minima = isoflop.minima(result.runs, settings.curve)
        inside = [minimum for minimum in result.minima if not minimum.edge]
        if len(inside) < 3:
            edges = "".join(f"; {m.flops:.3g}: {m.edge}" for m in result.minima if m.edge)
            return _not_identified(result, f"{len(inside)} budgets have a minimum, 3 are needed{edges}")
        lines = isoflop.fit_lines(result.minima)
        result.noise = isoflop.pooled_noise(result.runs)
    else:
        lines = _envelope_lines(result.runs)
        if lines is None:
            return _not_identified(result, "the envelope of the curves has fewer than 3 points or 2 sizes")
    size_line, token_line = lines
    result.params = {
        "N_coefficient": size_line.coefficient,
        "a": size_line.exponent,
        "D_coefficient": token_line.coefficient,
        "b": token_line.exponent,
    }
    result.exponents = (size_line.exponent, token_line.exponent)
    result.theta = np.array(isoflop.log_constants(size_line, token_line))
    if settings.boot:
        draws = _draw_lines(result)
        if len(draws) < settings.boot / 2:
            return _not_identified(result, "most bootstrap draws have no minimum inside the grids")
        result.draws = draws
        result.ci = {
            "N_coefficient": _quantiles(np.exp(draws[:, 0])),
            "a": _quantiles(draws[:, 1]),
            "D_coefficient": _quantiles(np.exp(draws[:, 2])),
            "b": _quantiles(draws[:, 3]),
        }
    return result


def _draw_lines(result: Fit) -> np.ndarray:
    """Bootstrap of approaches 1 and 2: isoflop.log_constants [draws, 4], without draws that have no lines."""
    settings = result.settings
    if settings.approach == 2:
        near = settings.curve == "auto"
        return isoflop.bootstrap_lines(result.runs, result.minima, settings.boot, settings.seed, near)
    groups = clusters(result.runs, settings.by)
    rng = np.random.default_rng(settings.seed)
    count = int(groups.max()) + 1
    members = [np.flatnonzero(groups == group) for group in range(count)]
    draws = []
    for _ in range(settings.boot):
        rows = np.concatenate([members[group] for group in rng.integers(0, count, count)])
        lines = _envelope_lines(rows_of(result.runs, rows))
        if lines is not None:
            draws.append(isoflop.log_constants(*lines))
    return np.array(draws)


def _envelope_lines(runs: RunTable) -> tuple[isoflop.Line, isoflop.Line] | None:
    flops, n, d = isoflop.envelope(runs)
    if len(flops) < 3 or len(np.unique(n)) < 2:
        return None
    log_flops = np.log(flops)
    return isoflop.line(log_flops, np.log(n)), isoflop.line(log_flops, np.log(d))


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _not_identified(result: Fit, why: str) -> Fit:
    """Remove every number that somebody could take for a result, and warn."""
    result.status = f"not identified: {why}{reason(result.runs, get_law(result.law))}"
    result.params = None
    result.ci = None
    result.exponents = None
    result.draws = None
    result.theta = None
    result.objective = None
    # The caller of fit is four frames up.
    warnings.warn(f"law {result.law}, approach {result.approach}: {result.status}", stacklevel=4)
    return result
