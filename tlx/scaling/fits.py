"""fit: a table of runs to a law's constants, how sure they are, and whether the data determine them."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.scaling import isoflop, sensitivity
from tlx.scaling.laws import LAWS, Law, Problem, get_law, predict_log
from tlx.scaling.runs import RunTable, clusters, load_runs, with_convention
from tlx.scaling.solver import Loss, curvature, parse_loss, polish, solve

# Below this smallest eigenvalue of the gradients' correlations two constants cannot be told apart.
_FLAT = 1e-9

# Share of bootstrap draws without an E from which it counts as undetermined; that of an exponent or of a
# number of repeats is where its 95% interval has no end.
_NO_FLOOR, _NO_END = 0.25, 0.025

# So wide an interval (its end over its beginning) says nothing of an exponent or a number of repeats.
_WIDE = 25.0

# Draws that are made in any case for a law whose constants are hard to tell apart.
_LEAST_DRAWS = 100


class Optimum(NamedTuple):
    """The best way to spend a budget. loss is NaN where a fit has no loss surface (approaches 1 and 2)."""

    flops: float
    N: float
    D: float
    loss: float


class LossPrediction(NamedTuple):
    """A loss and its interval. drift: share by which each side was widened for what backtests missed."""

    loss: float
    low: float
    high: float
    octaves: float  # of compute beyond the largest run
    drift: float


@dataclasses.dataclass
class Fit:
    """What `fit` found. Numbers are there only where `status` is "ok"."""

    law: str
    approach: int
    loss: str
    convention: str
    status: str  # "ok" or "not identified: why"
    params: dict[str, float] | None = None
    objective: float | None = None  # sum of the losses of all rows
    ci: dict[str, tuple[float, float]] | None = None  # 95%, bootstrap by run; exponents a, b included
    exponents: tuple[float, float] | None = None  # of N* and D* on compute
    starts: int = 0
    agreeing: int = 0  # starts that ended within 1e-4 of the best
    gradient: float = 0.0  # relative norm at the end
    noise: float = 0.0  # standard deviation of ln loss around the fit
    minima: list[isoflop.Minimum] = dataclasses.field(default_factory=list)
    theta: np.ndarray | None = None
    draws: np.ndarray | None = None  # [boot, p] constants of the bootstrap
    residuals: np.ndarray | None = None  # of ln loss
    runs: RunTable = dataclasses.field(default_factory=dict)
    flops_per: tuple[float, float] = (6.0, 1.0)  # flops = k N**s D
    by: str | None = None
    curve: str = "auto"

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def check(self) -> "Fit":
        """Itself; raises DataError where it is not identified."""
        if not self.ok:
            raise DataError(f"law {self.law}: {self.status}")
        return self

    def optimal(self, flops: float) -> Optimum:
        """The best N and D for a budget."""
        self.check()
        if self.approach != 3:
            n, d = _lines_of(self.theta)
            return Optimum(flops, float(n(flops)), float(d(flops)), float("nan"))
        n, d = optimal_sizes(get_law(self.law), self.theta, flops, self.flops_per)
        return Optimum(flops, float(n), float(d), self._loss(N=float(n), D=float(d)))

    def predict(
        self, N: float = 0.0, D: float = 0.0, interval: float = 0.95, **columns: float
    ) -> LossPrediction:
        """Loss of a run with its interval: bootstrap, noise of a run, and drift seen in the backtest.

        columns: what else the law reads (flops, D_unique, N_enc, N_dec).
        """
        self.check()
        if self.approach != 3:
            raise ConfigError(f"approach {self.approach} has no loss surface; fit with approach=3")
        rows = self._rows(N=N, D=D, **columns)
        law = get_law(self.law)
        center = float(predict_log(law, rows, self.theta)[0])
        flops, largest = rows.get("flops"), self.runs.get("flops")
        octaves = 0.0
        if flops is not None and largest is not None:
            octaves = max(0.0, float(np.log2(flops[0] / largest.max())))
        drift = 2 * self.backtest().rate * octaves if octaves > 0 else 0.0
        low, high = self._interval(rows, center, interval)
        return LossPrediction(
            float(np.exp(center)), float(np.exp(low - drift)), float(np.exp(high + drift)), octaves, drift
        )

    def backtest(self) -> Any:
        """See tlx.scaling.backtest: fits below every budget, predicted above it."""
        from tlx.scaling.backtest import backtest

        if not hasattr(self, "_backtest"):
            self._backtest = backtest(self)
        return self._backtest

    def influence(self, top: int = 5) -> list[tuple[str, float]]:
        """(run, change of a without it), largest first: outliers are shown, never dropped."""
        return sensitivity.influence(self.check(), top)

    def by_delta(self) -> dict[str, float | None]:
        """Exponent a for Huber's delta of 1e-4 to infinity."""
        return sensitivity.by_delta(self)

    def by_convention(self) -> dict[str, float | None]:
        """Exponent a as each convention that the table has columns for counts N and flops."""
        return sensitivity.by_convention(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values in full precision, for fit.json. Without constants where they are not identified."""
        found = {"law": self.law, "approach": self.approach, "loss": self.loss, "status": self.status}
        found |= {"convention": self.convention, "runs": len(self.runs.get("loss", ()))}
        if not self.ok:
            return found
        found |= {"params": self.params, "exponents": self.exponents, "ci": self.ci, "noise": self.noise}
        if self.approach == 3:
            found |= {"objective": self.objective, "starts": self.starts, "agreeing": self.agreeing}
            found |= {"gradient": self.gradient}
        else:
            found["minima"] = [m._asdict() for m in self.minima]
        return found

    def _rows(self, **columns: float) -> RunTable:
        law = get_law(self.law)
        given = {name: np.array([float(value)]) for name, value in columns.items() if value}
        if "flops" not in given and {"N", "D"} <= given.keys():
            k, s = self.flops_per
            given["flops"] = k * given["N"] ** s * given["D"]
        missing = [name for name in law.columns if name not in given]
        if missing:
            raise ConfigError(f"law {law.name!r} needs {', '.join(missing)} to predict")
        return given

    def _loss(self, **columns: float) -> float:
        return float(np.exp(predict_log(get_law(self.law), self._rows(**columns), self.theta)[0]))

    def _interval(self, rows: RunTable, center: float, interval: float) -> tuple[float, float]:
        """ln loss: draws of the constants, each with the residual of a random run."""
        rng = np.random.default_rng(0)
        inflate = np.sqrt(len(self.residuals) / max(1, len(self.residuals) - len(self.theta)))
        spread = np.array([center])
        if self.draws is not None and len(self.draws):
            spread = predict_log(get_law(self.law), rows, self.draws)[:, 0]
        noise = rng.choice(self.residuals, (20, len(spread))) * inflate
        return tuple(np.quantile(spread[None] + noise, [(1 - interval) / 2, (1 + interval) / 2]))


def fit(
    runs: Any,
    law: str = "chinchilla",
    approach: int = 3,
    loss: str = "huber:1e-3",
    boot: int = 1000,
    by: str | None = None,
    *,
    convention: str = "given",
    curve: str = "auto",
    starts: int = 200,
    seed: int = 0,
) -> Fit:
    """Fits a law to a table of runs (a path or columns; see tlx.scaling.runs).

    approach (of law "chinchilla"): 1 the envelope of training curves, 2 the minima of iso-FLOP curves, 3
    the loss surface. loss: see tlx.scaling.solver.parse_loss. boot: bootstrap draws, of whole runs, or of
    the values of the column `by`. curve: see tlx.scaling.isoflop. Raises ConfigError or DataError; data
    that do not determine the constants give a Fit whose status says so.
    """
    table = with_convention(runs if _is_runs(runs) else load_runs(runs), convention)
    known = get_law(law)
    if approach not in (1, 2, 3) or (approach != 3 and law != "chinchilla"):
        raise ConfigError(
            f"approach = {approach} with law = {law!r}: 1 and 2 are for 'chinchilla', 3 for all"
        )
    found = Fit(law, approach, parse_loss(loss).name, convention, "ok", by=by, curve=curve, runs=table)
    if {"N", "D", "flops"} <= table.keys():
        found.flops_per = _flops_per(table)
    if approach == 3:
        return _fit_surface(found, known, parse_loss(loss), boot, starts, seed)
    return _fit_lines(found, boot, seed)


def optimal_sizes(
    law: Law, theta: np.ndarray, flops: Any, flops_per: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """(N*, D*) of a budget, flops = k N^s D, for constants [..., p].

    For Chinchilla's form, where alpha A N^-alpha = s beta B D^-beta."""
    k, s = flops_per
    if law.name == "overtrain":
        params = law.params(theta)
        ratio = (params["b"] / params["a"]) ** (1 / (2 * params["eta"]))  # M*
        n = (flops / (k * ratio)) ** (1 / (s + 1))
        return n, flops / (k * n**s)
    if law.name == "kaplan":
        params = law.params(theta)
        p = params["p"]
        n = (p * params["A"] * (flops / k) / (s * params["D_c"])) ** (1 / (s + p))
        return n, flops / (k * n**s)
    if law.name not in ("chinchilla", "repeat"):
        raise ConfigError(f"law {law.name!r} has no optimum of N and D for a budget")
    q = law.params(theta)
    side = q["alpha"] * q["A"] / (s * q["beta"] * q["B"])
    n = (side * (flops / k) ** q["beta"]) ** (1 / (q["alpha"] + s * q["beta"]))
    return n, flops / (k * n**s)


def exponents_of(law: Law, theta: np.ndarray, flops_per: tuple[float, float]) -> tuple[Any, Any] | None:
    """(a, b) of N* ~ C^a and D* ~ C^b for constants [..., p]; None for laws without an optimum."""
    s, params = flops_per[1], law.params(theta)
    if law.name in ("chinchilla", "repeat"):
        a = params["beta"] / (params["alpha"] + s * params["beta"])
    elif law.name == "overtrain":
        a = np.full(np.shape(params["eta"]), 1 / (1 + s))
    elif law.name == "kaplan":
        a = 1 / (s + params["p"])
    else:
        return None
    return a, 1 - s * a


def _is_runs(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(column, np.ndarray) for column in value.values())


def _flops_per(runs: RunTable) -> tuple[float, float]:
    """k and s of flops = k N^s D: 6 and 1 for the usual count, else fitted to the table."""
    ratio = np.log(runs["flops"] / runs["D"])
    n = np.log(runs["N"])
    if np.ptp(ratio - n) < 1e-3 or np.ptp(n) < 1e-9:
        k = float(np.exp((ratio - n).mean()))
        return (6.0 if abs(k / 6 - 1) < 1e-6 else k), 1.0
    slope, offset = np.polyfit(n, ratio, 1)
    return float(np.exp(offset)), float(slope)


def _fit_surface(found: Fit, law: Law, loss: Loss, boot: int, starts: int, seed: int) -> Fit:
    problem = Problem(law, found.runs)
    rows = len(problem.target)
    if rows <= problem.size - ("" in law.names):
        return _unknown(found, f"{rows} runs for {problem.size} constants")
    coarse = solve(problem, loss, problem.starts(starts, seed), iterations=80, tolerance=1e-9)
    best = polish(problem, loss, coarse.phi[np.argmin(coarse.objective)])
    phi, objective = best.phi[0], float(best.objective[0])
    found.objective, found.starts = objective, starts
    found.agreeing = int((coarse.objective <= objective * (1 + 1e-4) + 1e-20).sum())
    found.gradient = float(best.gradient[0])
    found.theta = problem.outside(phi)
    why = _undetermined(problem, loss, phi)
    if why:
        return _unknown(found, why)
    prediction, _ = problem.evaluate(phi[None])
    found.residuals = problem.target - prediction[0]
    found.noise = float(np.std(found.residuals) * np.sqrt(rows / (rows - problem.size)))
    if boot or law.repeated:
        groups = clusters(found.runs, found.by)
        found.draws, why = _bootstrap(problem, loss, phi, groups, boot or _LEAST_DRAWS, seed)
        if why:
            return _unknown(found, why)
    found.params = {name: float(value) for name, value in law.params(found.theta).items()}
    exponents = exponents_of(law, found.theta, found.flops_per)
    found.exponents = None if exponents is None else (float(exponents[0]), float(exponents[1]))
    if found.draws is not None:
        _add_intervals(found, law)
    return found


def _add_intervals(found: Fit, law: Law) -> None:
    found.ci = {name: _quantiles(values) for name, values in law.params(found.draws).items()}
    exponents = exponents_of(law, found.draws, found.flops_per)
    if exponents is not None:
        found.ci |= {"a": _quantiles(exponents[0]), "b": _quantiles(exponents[1])}


def _bootstrap(
    problem: Problem, loss: Loss, phi: np.ndarray, groups: np.ndarray, boot: int, seed: int
) -> tuple[np.ndarray, str]:
    """Constants [boot, p] of tables drawn by run, and why they show the data to be too poor (or "")."""
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    weights = rng.multinomial(count, np.full(count, 1 / count), boot)[:, groups].astype(float)
    drawn = solve(problem, loss, np.repeat(phi[None], boot, 0), weights, iterations=60, tolerance=1e-7)
    return problem.outside(drawn.phi), _too_wide(problem, drawn.phi)


def _too_wide(problem: Problem, phi: np.ndarray) -> str:
    """Why draws [boot, p] show that the data are too poor (or "")."""
    law = problem.law
    for i, name in enumerate(law.names):
        if name == "" or (name in law.coefficients and name != "E"):
            continue
        span = problem.upper[i] - problem.lower[i]
        share = float((phi[:, i] - problem.lower[i] < 1e-3 * span).mean())
        if name != "E":
            share += float((problem.upper[i] - phi[:, i] < 1e-3 * span).mean())
        if share > (_NO_FLOOR if name == "E" else _NO_END):
            return f"{name} has no value in {share:.0%} of the bootstrap draws"
        low, high = np.quantile(law.params(phi)[name], [0.025, 0.975])
        if name != "E" and high > _WIDE * low:
            return f"{name} lies anywhere from {low:.3g} to {high:.3g}"
    return ""


def _undetermined(problem: Problem, loss: Loss, phi: np.ndarray) -> str:
    """Why a minimum is none: a constant at the end of its range, or constants that move together."""
    for i, name in enumerate(problem.law.names):
        if name == "":
            continue
        span = problem.upper[i] - problem.lower[i]
        if phi[i] - problem.lower[i] < 1e-3 * span:
            return (
                f"{name} goes to {'zero' if name in problem.law.coefficients else 'the low end of its range'}"
            )
        if problem.upper[i] - phi[i] < 1e-3 * span and name != "E":
            return f"{name} grows without bound"
        if name == "E" and problem.upper[i] - phi[i] < 1e-9:
            return "E reaches the lowest loss"
    free = [i for i, name in enumerate(problem.law.names) if name != ""]
    matrix = curvature(problem, loss, phi)[np.ix_(free, free)]
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < _FLAT:
        names = [problem.law.names[free[i]] for i in np.flatnonzero(np.abs(vectors[:, 0]) > 0.3)]
        return f"the runs do not tell {' and '.join(names)} apart"
    return ""


def _fit_lines(found: Fit, boot: int, seed: int) -> Fit:
    runs = found.runs
    for column in ("N", "D", "flops"):
        if column not in runs:
            raise DataError(f"approach {found.approach} needs the column {column!r}")
    draw: Callable[[], np.ndarray]
    if found.approach == 2:
        found.minima = isoflop.minima(runs, found.curve)
        inside = [m for m in found.minima if not m.edge]
        if len(inside) < 3:
            edges = "; ".join(f"{m.flops:.3g}: {m.edge}" for m in found.minima if m.edge)
            return _unknown(found, f"{len(inside)} budgets have a minimum, 3 are needed. {edges}")
        lines = isoflop.fit_lines(found.minima)
        found.noise = isoflop.pooled_noise(runs)

        def draw() -> np.ndarray:
            return isoflop.bootstrap_lines(runs, found.minima, boot, found.curve, seed)
    else:
        lines = _envelope_lines(runs)
        if lines is None:
            return _unknown(found, "the envelope of the curves has fewer than 3 points or 2 sizes")

        def draw() -> np.ndarray:
            return _draw_envelopes(runs, clusters(runs, found.by), boot, seed)

    n, d = lines
    found.params = {"N_coefficient": n.coefficient, "a": n.exponent}
    found.params |= {"D_coefficient": d.coefficient, "b": d.exponent}
    found.exponents = (n.exponent, d.exponent)
    found.theta = np.array([np.log(n.coefficient), n.exponent, np.log(d.coefficient), d.exponent])
    if boot:
        found.draws = draw()
        if len(found.draws) < boot / 2:
            return _unknown(found, "most bootstrap draws have no minimum inside the grids")
        names = ("N_coefficient", "a", "D_coefficient", "b")
        columns = (np.exp(found.draws[:, i]) if i % 2 == 0 else found.draws[:, i] for i in range(4))
        found.ci = {name: _quantiles(column) for name, column in zip(names, columns, strict=True)}
    return found


def _envelope_lines(runs: RunTable) -> tuple[isoflop.Line, isoflop.Line] | None:
    c, n, d = isoflop.envelope(runs)
    if len(c) < 3 or len(np.unique(n)) < 2:
        return None
    logs = np.log(c)
    return isoflop.line(logs, np.log(n)), isoflop.line(logs, np.log(d))


def _draw_envelopes(runs: RunTable, groups: np.ndarray, boot: int, seed: int) -> np.ndarray:
    rng, count = np.random.default_rng(seed), int(groups.max()) + 1
    members = [np.flatnonzero(groups == g) for g in range(count)]
    found = []
    for _ in range(boot):
        rows = np.concatenate([members[g] for g in rng.integers(0, count, count)])
        lines = _envelope_lines({name: column[rows] for name, column in runs.items()})
        if lines is not None:
            found.append([f(v) for line in lines for f, v in zip((np.log, float), line, strict=True)])
    return np.array(found)


def _lines_of(theta: np.ndarray) -> tuple[isoflop.Line, isoflop.Line]:
    return isoflop.Line(float(np.exp(theta[0])), theta[1]), isoflop.Line(float(np.exp(theta[2])), theta[3])


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _unknown(found: Fit, why: str) -> Fit:
    """Without numbers that somebody could take for a result."""
    found.status = f"not identified: {why}"
    found.params = found.ci = found.exponents = found.draws = found.theta = found.objective = None
    warnings.warn(f"law {found.law}, approach {found.approach}: {found.status}", stacklevel=4)
    return found


__all__ = ["LAWS", "Fit", "Optimum", "LossPrediction", "fit"]
