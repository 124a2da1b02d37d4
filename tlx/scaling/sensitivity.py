"""Sensitivity of exponents to single runs, to the loss's delta, and to the counting of N and FLOPs."""

import warnings
from typing import Any

import numpy as np

from tlx.base.errors import DataError
from tlx.scaling import fits
from tlx.scaling.evaluation import Problem
from tlx.scaling.fits import Fit
from tlx.scaling.laws import get_law
from tlx.scaling.runs import clusters, conventions_of, with_convention
from tlx.scaling.solver import linearise, parse_loss, solve

DELTAS = ("huber:1e-4", "huber:1e-3", "huber:1e-2", "l2")

# Runs times rows beyond which only those runs are left out and refitted whose influence is largest to first order.
_MOST_REFITTED = 20_000_000


def influence(fit: Fit, top: int = 5) -> list[tuple[str, float]]:
    """Return (run, change of the exponent without it), largest first: outliers are shown, never dropped.

    The exponent is a of N* ~ C^a, or the law's first exponent where it has no optimum. Empty for approaches 1
    and 2. Raises DataError where the fit is not identified.
    """
    theta = fit.constants()
    if fit.approach != 3:
        return []
    problem = Problem(get_law(fit.law), fit.runs)
    groups = clusters(fit.runs, fit.settings.by)
    loss = parse_loss(fit.settings.loss)
    phi = problem.inside(theta)
    left_out = np.arange(groups.max() + 1)
    if len(left_out) * len(groups) > _MOST_REFITTED:
        moved = phi + linearise(problem, loss, phi, groups).without_each()
        change = _exponent(fit, problem.outside(moved)) - _exponent(fit, theta)
        left_out = np.argsort(-np.abs(change))[:top]
    # One problem per run: the weights of its rows are 0, and each starts from the fit itself.
    weights = (groups[None] != left_out[:, None]).astype(float)
    starts = np.repeat(phi[None], len(weights), 0)
    solution = solve(problem, loss, starts, weights, iterations=80)
    change = _exponent(fit, problem.outside(solution.phi)) - _exponent(fit, theta)
    order = np.argsort(-np.abs(change))[:top]
    return [(_name(fit, groups, int(left_out[i])), float(change[i])) for i in order]


def by_delta(fit: Fit) -> dict[str, float | None]:
    """Return the exponent of refits by loss, for Huber's delta of 1e-4 to infinity.

    None where a refit is not identified; empty for approaches 1 and 2.
    """
    if fit.approach != 3:
        return {}
    exponents: dict[str, float | None] = {}
    for loss in DELTAS:
        refit = _refit(fit, loss=loss)
        exponents[loss] = float(_exponent(refit, refit.constants())) if refit.ok else None
    return exponents


def by_convention(fit: Fit) -> dict[str, float | None]:
    """Return the exponent a of refits by each convention that the table has columns for.

    None where a refit is not identified; a convention that leaves no usable column is not listed.
    """
    exponents: dict[str, float | None] = {}
    for convention in conventions_of(fit.runs):
        if _same_counts(fit, convention):
            exponents[convention] = fit.exponents[0] if fit.exponents is not None else None
            continue
        try:
            refit = _refit(
                fit,
                approach=fit.approach,
                loss=fit.settings.loss,
                convention=convention,
                curve=fit.settings.curve,
            )
        except DataError:
            continue
        exponents[convention] = refit.exponents[0] if refit.exponents is not None else None
    return exponents


def _same_counts(fit: Fit, convention: str) -> bool:
    """Whether a convention counts N and flops as the fit does: a refit would only repeat it."""
    counted = with_convention(fit.runs, convention)
    return all(np.array_equal(counted[name], fit.runs[name]) for name in ("N", "flops") if name in fit.runs)


def _refit(fit: Fit, **settings: Any) -> Fit:
    """The same runs with other settings. Its warnings would read as if they were those of the fit itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fits.fit(fit.runs, fit.law, boot=0, starts=60, **settings)


def _exponent(fit: Fit, theta: np.ndarray) -> Any:
    """Exponent a for constants [..., p]; the law's first exponent where it has no optimum."""
    law = get_law(fit.law)
    exponents = law.optimal_exponents(theta, fit.flops_per)
    return exponents[0] if exponents is not None else law.params(theta)[law.exponents[0]]


def _name(fit: Fit, groups: np.ndarray, group: int) -> str:
    """A run for the reader: its first row, its name where the table has one, its size and loss."""
    row = int(np.flatnonzero(groups == group)[0])
    values = ", ".join(f"{c} {fit.runs[c][row]:.3g}" for c in ("N", "D", "loss") if c in fit.runs)
    names = fit.runs.get(fit.settings.by or "run")
    if names is None:
        return f"row {row} ({values})"
    return f"{names[row]} ({values})"
