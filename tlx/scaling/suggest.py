"""suggest: the next runs: those that say most about a forecast per FLOP, and repairs of open minima."""

from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.fits import Fit, optimal_sizes
from tlx.scaling.isoflop import group_budgets, minima
from tlx.scaling.laws import Problem, get_law
from tlx.scaling.solver import parse_loss


class Suggestion(NamedTuple):
    """A run to make next. interval: width of the forecast's 95% interval of ln loss after it."""

    N: float
    D: float
    flops: float
    why: str
    interval: float


def suggest(fit: Fit, flops: float, count: int = 4, most: float | None = None) -> list[Suggestion]:
    """Up to `count` runs whose results narrow the forecast at `flops` most per FLOP, after the repairs.

    Information is that of the law linearised at the fit. most: FLOPs of the largest run allowed; 4 times
    the largest so far by default.
    """
    fit.check()
    if fit.approach != 3:
        raise ConfigError("suggest needs a loss surface: approach=3")
    law = get_law(fit.law)
    if not set(law.columns) <= {"N", "D", "flops"}:
        raise ConfigError(f"suggest is for laws of N and D, not {law.name!r}")
    problem, noise = Problem(law, fit.runs), max(fit.noise, 1e-6)
    phi = problem.inside(fit.theta)
    residual, slope = parse_loss("l2").residual(*problem.evaluate(phi[None]), problem.target)
    spread = np.linalg.pinv(slope[0].T @ slope[0] / noise**2 + 1e-12 * np.eye(problem.size))
    aim = _slopes(fit, problem, *_best(fit, flops), np.array([flops]))[0]
    limit = most or 4 * float(fit.runs["flops"].max())
    n, d, c = _candidates(fit, limit)
    slopes = _slopes(fit, problem, n, d, c)
    found = [_repair_row(r, spread, aim) for r in repairs(fit)]
    for _ in range(count):
        reach = slopes @ spread @ aim
        gain = reach**2 / (noise**2 + np.einsum("ip,pq,iq->i", slopes, spread, slopes))
        i = int(np.argmax(gain / c))
        step = spread @ slopes[i]
        spread = spread - np.outer(step, step) / (noise**2 + slopes[i] @ step)
        why = "narrows the forecast most per FLOP"
        found.append(Suggestion(float(n[i]), float(d[i]), float(c[i]), why, _width(spread, aim)))
    return found


def repairs(fit: Fit) -> list[Suggestion]:
    """A run beyond the open side of every budget whose minimum is not bracketed."""
    found = []
    groups = group_budgets(fit.runs)
    for rows, minimum in zip(groups, minima(fit.runs), strict=True):
        if "bracketed" not in minimum.edge or len(rows) < 3:
            continue
        sizes = fit.runs["N"][rows]
        n = sizes.min() / 2 if "smallest" in minimum.edge else sizes.max() * 2
        k, s = fit.flops_per
        why = f"brackets the minimum at {minimum.flops:.3g} FLOP: {minimum.edge}"
        found.append(
            Suggestion(float(n), float(minimum.flops / (k * n**s)), minimum.flops, why, float("nan"))
        )
    return found


def _best(fit: Fit, flops: float) -> tuple[np.ndarray, np.ndarray]:
    n, d = optimal_sizes(get_law(fit.law), fit.theta, np.array([flops]), fit.flops_per)
    return n, d


def _candidates(fit: Fit, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes within a factor of 8 of the best, at budgets from the smallest run's to the limit."""
    budgets = np.geomspace(fit.runs["flops"].min(), limit, 9)
    n, _ = optimal_sizes(get_law(fit.law), fit.theta, budgets, fit.flops_per)
    n = (n[:, None] * np.geomspace(1 / 8, 8, 13)[None]).ravel()
    c = np.repeat(budgets, 13)
    k, s = fit.flops_per
    return n, c / (k * n**s), c


def _slopes(fit: Fit, problem: Problem, n: np.ndarray, d: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Gradient [i, p] of ln loss by the problem's own centred constants, for new runs."""
    law = get_law(fit.law)
    rows: dict[str, Any] = {"N": n, "D": d, "flops": c, law.target: np.ones(len(n))}
    other = Problem(law, {name: rows[name] for name in {*law.columns, law.target}})
    _, slope = other.evaluate(other.inside(fit.theta)[None])
    return slope[0] @ other.change @ np.linalg.inv(problem.change)


def _repair_row(repair: Suggestion, spread: np.ndarray, aim: np.ndarray) -> Suggestion:
    return repair._replace(interval=_width(spread, aim))


def _width(spread: np.ndarray, aim: np.ndarray) -> float:
    return float(2 * 1.96 * np.sqrt(max(0.0, aim @ spread @ aim)))
