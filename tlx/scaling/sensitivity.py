"""How much an exponent depends on one run, on the loss's delta, and on what N and flops count."""

from typing import Any

import numpy as np

from tlx.base.errors import DataError
from tlx.scaling.laws import Problem, get_law
from tlx.scaling.runs import clusters, conventions_of
from tlx.scaling.solver import parse_loss, solve

DELTAS = ("huber:1e-4", "huber:1e-3", "huber:1e-2", "l2")


def influence(fit: Any, top: int) -> list[tuple[str, float]]:
    """(run, a without it - a), largest first; without an exponent a, of the law's first exponent."""
    if fit.approach != 3:
        return []
    problem, loss = Problem(get_law(fit.law), fit.runs), parse_loss(fit.loss)
    groups = clusters(fit.runs, fit.by)
    weights = (groups[None] != np.arange(groups.max() + 1)[:, None]).astype(float)
    starts = np.repeat(problem.inside(fit.theta)[None], len(weights), 0)
    left_out = problem.outside(solve(problem, loss, starts, weights, iterations=80).phi)
    change = _exponent(fit, left_out) - _exponent(fit, fit.theta)
    order = np.argsort(-np.abs(change))[:top]
    return [(_name(fit, groups, g), float(change[g])) for g in order]


def by_delta(fit: Any) -> dict[str, float | None]:
    """a of refits with other losses; None where one is not identified."""
    from tlx.scaling.fits import fit as refit

    found = {}
    for loss in DELTAS if fit.approach == 3 else ():
        again = refit(fit.runs, fit.law, 3, loss, boot=0, starts=60)
        found[loss] = None if not again.ok else float(_exponent(again, again.theta))
    return found


def by_convention(fit: Any) -> dict[str, float | None]:
    """a of refits with other counts of N and flops; None where one is not identified."""
    from tlx.scaling.fits import fit as refit

    found = {}
    for convention in conventions_of(fit.runs):
        try:
            again = refit(
                fit.runs,
                fit.law,
                fit.approach,
                fit.loss,
                0,
                convention=convention,
                curve=fit.curve,
                starts=60,
            )
        except DataError:
            continue
        found[convention] = None if not again.ok else again.exponents and again.exponents[0]
    return found


def _exponent(fit: Any, theta: np.ndarray) -> Any:
    from tlx.scaling.fits import exponents_of

    law = get_law(fit.law)
    found = exponents_of(law, theta, fit.flops_per)
    return found[0] if found is not None else law.params(theta)[law.exponents[0]]


def _name(fit: Any, groups: np.ndarray, group: int) -> str:
    row = int(np.flatnonzero(groups == group)[0])
    name = fit.runs.get(fit.by or "run")
    where = ", ".join(f"{c} {fit.runs[c][row]:.3g}" for c in ("N", "D", "loss") if c in fit.runs)
    return f"row {row} ({where})" if name is None else f"{name[row]} ({where})"
