"""suggest: the runs that say most about a forecast per FLOP, and repairs of minima without brackets."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.drift import Outlook
from tlx.scaling.evaluation import Problem
from tlx.scaling.fits import Fit
from tlx.scaling.isoflop import group_budgets, minima
from tlx.scaling.laws import get_law
from tlx.scaling.runs import RunTable
from tlx.scaling.solver import parse_loss


class Suggestion(NamedTuple):
    """A run to make next."""

    N: float
    """Parameters."""

    D: float
    """Training tokens."""

    flops: float
    """Training FLOPs."""

    why: str
    """Purpose of the run."""

    interval: float
    """Width of the forecast's 95% interval of ln loss once the run is made; NaN where it was not computed."""


class Halving(NamedTuple):
    """Further runs that would halve the interval of a forecast."""

    runs: int
    """Number of runs."""

    flops: float
    """Their training FLOPs together."""

    before: float
    """Width of the 95% interval of ln loss by the law before them."""

    after: float
    """Width after them; more than half of `before` where the most runs that are tried do not suffice."""

    forecast_before: float
    """Width of the interval that `predict` gives before them: that of the law, with drift, other forms of the law and
    the noise of the measured run, which no other run takes away."""

    forecast_after: float
    """Width of that interval after them, where they come out as forecast, with the fit's noise."""


# Runs after which halving gives up.
_MOST_RUNS = 500


def suggest(fit: Fit, flops: float, count: int = 4, most: float | None = None) -> list[Suggestion]:
    """Suggest the runs whose results narrow a forecast most per FLOP, after the repairs.

    A greedy optimal design: information is that of the law linearised at the fit, each run's noise the fit's.

    Args:
        fit: An identified fit of approach 3.
        flops: The budget that is to be forecast.
        count: Number of runs besides the repairs.
        most: FLOPs of the largest run allowed; None for 4 times the largest so far.

    Returns:
        The repairs, then the runs in the order in which they should be made.

    Raises:
        ConfigError: The fit has no loss surface, or its law reads other columns than N, D and flops.
        DataError: The fit is not identified.
    """
    design = _Design(fit, flops, most)
    suggestions = [repair._replace(interval=design.width()) for repair in repairs(fit)]
    return suggestions + [design.next_run() for _ in range(count)]


def halving(fit: Fit, flops: float, most: float | None = None) -> Halving:
    """Count the suggested runs, repairs not among them, that halve the law's interval of a forecast.

    Args:
        fit: An identified fit of approach 3.
        flops: The budget that is to be forecast.
        most: FLOPs of the largest run allowed; None for 4 times the largest so far.

    Returns:
        The runs and their compute; after _MOST_RUNS runs what they reach.

    Raises:
        ConfigError: The fit has no loss surface, or its law reads other columns than N, D and flops.
        DataError: The fit is not identified.
    """
    design = _Design(fit, flops, most)
    before = design.width()
    suggested: list[Suggestion] = []
    while design.width() > before / 2 and len(suggested) < _MOST_RUNS:
        suggested.append(design.next_run())
    spent = sum(run.flops for run in suggested)
    row = fit.optimal_row(flops)
    widths = [_forecast_width(fit, row), _forecast_width(_with_runs(fit, suggested), row)]
    return Halving(len(suggested), spent, before, design.width(), *widths)


def _forecast_width(fit: Fit, row: RunTable) -> float:
    """Width of the 95% interval of ln loss that `predict` gives for a run."""
    forecast = Outlook(fit).forecast(row)
    return float(forecast.high[0] - forecast.low[0])


def _with_runs(fit: Fit, suggested: list[Suggestion]) -> Fit:
    """The fit with further runs in its table, whose losses are those that are forecast, with the fit's noise."""
    law = get_law(fit.law)
    rows = {name: np.array([getattr(run, name) for run in suggested]) for name in ("N", "D", "flops")}
    if not suggested:
        return fit
    noise = fit.noise * np.random.default_rng(0).standard_normal(len(suggested))
    rows[law.target] = np.exp(Outlook(fit).forecast(rows).center + noise)
    table = {name: np.concatenate([fit.runs[name], rows[name]]) for name in rows if name in fit.runs}
    return dataclasses.replace(fit, runs=table)


class _Design:
    """A greedy optimal design: the covariance of the constants, and the runs that may narrow a forecast."""

    def __init__(self, fit: Fit, flops: float, most: float | None):
        fit.check()
        if fit.approach != 3:
            raise ConfigError("suggest needs a loss surface: approach=3")
        law = get_law(fit.law)
        if not law.is_surface_of_n_and_d:
            raise ConfigError(f"suggest is for laws of N and D, not {law.name!r}")
        problem = Problem(law, fit.runs)
        self.noise = max(fit.noise, 1e-6)
        # Covariance [p, p] of the centred constants; the small ridge keeps it finite along flat directions.
        phi = problem.inside(fit.constants())
        _, slope = parse_loss("l2").residual(*problem.evaluate(phi[None]), problem.target)
        precision = slope[0].T @ slope[0] / self.noise**2
        self.spread = np.linalg.pinv(precision + 1e-12 * np.eye(problem.size))
        target = np.array([flops])
        best_n, best_d = law.optimal_sizes(fit.constants(), target, fit.flops_per)
        self.aim = _slopes(fit, problem, best_n, best_d, target)[0]
        self.candidates = _candidates(fit, most or 4 * float(fit.runs["flops"].max()))
        self.slopes = _slopes(fit, problem, *self.candidates)

    def width(self) -> float:
        """Width of the forecast's 95% interval of ln loss by the law and the runs so far."""
        return _width(self.spread, self.aim)

    def next_run(self) -> Suggestion:
        """Add the run that narrows the forecast most per FLOP."""
        n, d, c = self.candidates
        reach = self.slopes @ self.spread @ self.aim
        gain = reach**2 / (self.noise**2 + np.einsum("ip,pq,iq->i", self.slopes, self.spread, self.slopes))
        i = int(np.argmax(gain / c))
        # Rank-one update of the covariance by one measurement (Sherman-Morrison).
        step = self.spread @ self.slopes[i]
        self.spread = self.spread - np.outer(step, step) / (self.noise**2 + self.slopes[i] @ step)
        return Suggestion(
            N=float(n[i]),
            D=float(d[i]),
            flops=float(c[i]),
            why="narrows the forecast most per FLOP",
            interval=self.width(),
        )


def repairs(fit: Fit) -> list[Suggestion]:
    """Return a run beyond the open side of every budget whose minimum is not bracketed."""
    suggestions = []
    groups = group_budgets(fit.runs)
    for rows, minimum in zip(groups, minima(fit.runs), strict=True):
        if "bracketed" not in minimum.edge or len(rows) < 3:
            continue
        sizes = fit.runs["N"][rows]
        n = sizes.min() / 2 if "smallest" in minimum.edge else sizes.max() * 2
        suggestions.append(
            Suggestion(
                N=float(n),
                D=float(minimum.flops / fit.flops_per_token(n)),
                flops=minimum.flops,
                why=f"brackets the minimum at {minimum.flops:.3g} FLOP: {minimum.edge}",
                interval=float("nan"),
            )
        )
    return suggestions


def _candidates(fit: Fit, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, flops) [i]: sizes within a factor of 8 of the best, from the smallest budget to the limit."""
    budgets = np.geomspace(fit.runs["flops"].min(), limit, 9)
    best, _ = get_law(fit.law).optimal_sizes(fit.constants(), budgets, fit.flops_per)
    n = (best[:, None] * np.geomspace(1 / 8, 8, 13)[None]).ravel()
    c = np.repeat(budgets, 13)
    return n, c / fit.flops_per_token(n), c


def _slopes(fit: Fit, problem: Problem, n: np.ndarray, d: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Gradient [i, p] of ln loss by the problem's own centred constants, for new runs."""
    law = get_law(fit.law)
    rows: dict[str, Any] = {"N": n, "D": d, "flops": c, law.target: np.ones(len(n))}
    other = Problem(law, {name: rows[name] for name in {*law.columns, law.target}})
    _, slope = other.evaluate(other.inside(fit.constants())[None])
    return slope[0] @ other.change @ np.linalg.inv(problem.change)


def _width(spread: np.ndarray, aim: np.ndarray) -> float:
    """Width of the 95% interval of ln loss in the direction `aim`."""
    return float(2 * 1.96 * np.sqrt(max(0.0, aim @ spread @ aim)))
