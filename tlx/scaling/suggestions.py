"""suggest: the runs that say most about a forecast per FLOP, and repairs of minima without brackets."""

from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.evaluation import Problem
from tlx.scaling.fits import Fit
from tlx.scaling.isoflop import group_budgets, minima
from tlx.scaling.laws import get_law
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
    fit.check()
    if fit.approach != 3:
        raise ConfigError("suggest needs a loss surface: approach=3")
    law = get_law(fit.law)
    if not law.is_surface_of_n_and_d:
        raise ConfigError(f"suggest is for laws of N and D, not {law.name!r}")
    problem = Problem(law, fit.runs)
    noise = max(fit.noise, 1e-6)
    # Covariance [p, p] of the centred constants; the small ridge keeps it finite along flat directions.
    phi = problem.inside(fit.constants())
    _, slope = parse_loss("l2").residual(*problem.evaluate(phi[None]), problem.target)
    spread = np.linalg.pinv(slope[0].T @ slope[0] / noise**2 + 1e-12 * np.eye(problem.size))
    target = np.array([flops])
    best_n, best_d = law.optimal_sizes(fit.constants(), target, fit.flops_per)
    aim = _slopes(fit, problem, best_n, best_d, target)[0]
    n, d, c = _candidates(fit, most or 4 * float(fit.runs["flops"].max()))
    slopes = _slopes(fit, problem, n, d, c)
    suggestions = [repair._replace(interval=_width(spread, aim)) for repair in repairs(fit)]
    for _ in range(count):
        reach = slopes @ spread @ aim
        gain = reach**2 / (noise**2 + np.einsum("ip,pq,iq->i", slopes, spread, slopes))
        i = int(np.argmax(gain / c))
        # Rank-one update of the covariance by one measurement (Sherman-Morrison).
        step = spread @ slopes[i]
        spread = spread - np.outer(step, step) / (noise**2 + slopes[i] @ step)
        suggestions.append(
            Suggestion(
                N=float(n[i]),
                D=float(d[i]),
                flops=float(c[i]),
                why="narrows the forecast most per FLOP",
                interval=_width(spread, aim),
            )
        )
    return suggestions


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
