"""Fits a law from many starts at once: robust loss on log residuals, exact gradients, no early stop.

All starts (or all bootstrap draws) advance together by damped Gauss-Newton steps on the reweighted problem;
a step is taken only where the loss itself falls, and the end is judged relative to the loss, whatever its
size (a mean of 4e-6 with an absolute tolerance is how Chinchilla's fit stopped early).
"""

from typing import NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.scaling.laws import Problem


class Loss(NamedTuple):
    """A robust loss: quadratic within delta, linear beyond (huber; lad: a tiny delta; l2: an infinite one).

    Residuals are of ln loss; with `plain`, of the loss itself (least squares as curve_fit does them).
    """

    name: str
    delta: float
    plain: bool = False

    def residual(
        self, prediction: np.ndarray, slope: np.ndarray, target: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Residuals [S, n] and their gradient [S, n, p] from those of ln prediction."""
        if not self.plain:
            return prediction - target, slope
        value = np.exp(prediction)
        return value - np.exp(target), slope * value[..., None]

    def value(self, residual: np.ndarray) -> np.ndarray:
        """Of each residual."""
        size = np.abs(residual)
        if np.isinf(self.delta):
            return residual**2 / 2
        return np.where(size <= self.delta, residual**2 / 2, self.delta * (size - self.delta / 2))

    def weight(self, residual: np.ndarray) -> np.ndarray:
        """Derivative over residual."""
        if np.isinf(self.delta):
            return np.ones_like(residual)
        return np.minimum(1.0, self.delta / np.maximum(np.abs(residual), 1e-300))


def parse_loss(text: str) -> Loss:
    """ "huber:1e-3", "lad", "l2", all of ln loss; or "l2:plain", of the loss itself."""
    name, _, delta = text.partition(":")
    if text == "l2:plain":
        return Loss(text, np.inf, plain=True)
    if name not in ("huber", "lad", "l2"):
        raise ConfigError(one_of("loss", text, ("huber:DELTA", "lad", "l2", "l2:plain")))
    try:
        size = {"lad": 1e-7, "l2": np.inf}.get(name) or float(delta or 1e-3)
    except ValueError as error:
        raise ConfigError(f"loss = {text!r}: {delta!r} is no number") from error
    return Loss(text, size)


class Solution(NamedTuple):
    """Where the starts ended. phi is in the problem's centred coordinates."""

    phi: np.ndarray  # [S, p]
    objective: np.ndarray  # [S] sum of losses
    gradient: np.ndarray  # [S] norm of the gradient over the objective, bounds held


# Starts that move together: what fits the cache.
_TOGETHER = 128


def solve(
    problem: Problem,
    loss: Loss,
    starts: np.ndarray,
    weights: np.ndarray | None = None,
    iterations: int = 200,
    tolerance: float = 1e-13,
) -> Solution:
    """Minimises sum_i w_i loss(ln prediction_i - ln target_i) from every row of `starts`.

    weights: [n], or [S, n]: one problem for each start (bootstrap draws).
    """
    parts = []
    for begin in range(0, len(starts), _TOGETHER):
        rows = slice(begin, begin + _TOGETHER)
        some = weights[rows] if weights is not None and weights.ndim == 2 else weights
        parts.append(_solve_together(problem, loss, starts[rows], some, iterations, tolerance))
    return Solution(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def polish(problem: Problem, loss: Loss, phi: np.ndarray) -> Solution:
    """The best minimum near one vector: graduated from wider deltas, then to the last digit."""
    best = solve(problem, loss, phi[None], iterations=600, tolerance=1e-15)
    if np.isfinite(loss.delta):
        wide = phi[None]
        for factor in (30, 10, 3, 1):
            wide = solve(problem, Loss(loss.name, loss.delta * factor), wide, iterations=300).phi
        other = solve(problem, loss, wide, iterations=600, tolerance=1e-15)
        best = other if other.objective[0] < best.objective[0] else best
    return best


def _solve_together(
    problem: Problem,
    loss: Loss,
    phi: np.ndarray,
    weights: np.ndarray | None,
    iterations: int,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count, size = phi.shape
    weights = np.ones(len(problem.target)) if weights is None else weights
    final_phi, final_f = phi.copy(), np.full(count, np.inf)
    final_gradient = np.full(count, np.inf)
    alive = np.arange(count)
    phi, each = phi.copy(), np.broadcast_to(weights, (count, weights.shape[-1]))
    damping, quiet = np.full(count, 1e-2), np.zeros(count, int)
    residual, slope = loss.residual(*problem.evaluate(phi), problem.target)
    f = (each * loss.value(residual)).sum(-1)
    for _ in range(iterations):
        step, gradient = _step(problem, loss, phi, residual, slope, each, damping)
        tried = np.clip(phi + step, problem.lower, problem.upper)
        new_residual, new_slope = loss.residual(*problem.evaluate(tried), problem.target)
        new_f = (each * loss.value(new_residual)).sum(-1)
        better = new_f < f
        quiet = np.where(better & (f - new_f > tolerance * f), 0, quiet + 1)
        phi = np.where(better[:, None], tried, phi)
        residual = np.where(better[:, None], new_residual, residual)
        slope = np.where(better[:, None, None], new_slope, slope)
        f = np.where(better, new_f, f)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e9)
        final_phi[alive], final_f[alive], final_gradient[alive] = phi, f, gradient
        go = (quiet < 8) & (f > 1e-28)
        if not go.any():
            break
        if go.mean() < 0.8:
            alive, phi, residual, slope, f = alive[go], phi[go], residual[go], slope[go], f[go]
            damping, quiet, each = damping[go], quiet[go], each[go]
    return final_phi, final_f, final_gradient


def _step(
    problem: Problem,
    loss: Loss,
    phi: np.ndarray,
    residual: np.ndarray,
    slope: np.ndarray,
    each: np.ndarray,
    damping: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Damped Gauss-Newton step [S, p] on the reweighted squares, and the gradient's relative norm [S]."""
    weight = each * loss.weight(residual)
    weighted = slope * weight[..., None]
    gradient = np.matmul(residual[:, None, :], weighted)[:, 0]
    curvature = np.matmul(weighted.transpose(0, 2, 1), slope)
    diagonal = np.einsum("spp->sp", curvature).copy()
    held = (phi <= problem.lower) & (gradient > 0) | (phi >= problem.upper) & (gradient < 0)
    gradient = np.where(held, 0.0, gradient)
    curvature = np.where(held[:, :, None] | held[:, None, :], 0.0, curvature)
    scale = np.maximum(diagonal, 1e-12 * diagonal.max(-1, keepdims=True) + 1e-300)
    diagonal_add = np.where(held, 1.0, damping[:, None] * scale + 1e-14 * scale)
    curvature[:, range(phi.shape[1]), range(phi.shape[1])] += diagonal_add
    step = -np.linalg.solve(curvature, gradient[..., None])[..., 0]
    f = (each * loss.value(residual)).sum(-1)
    relative = np.linalg.norm(gradient / np.sqrt(scale), axis=-1) / np.sqrt(np.maximum(f, 1e-300))
    return step, relative


def curvature(problem: Problem, loss: Loss, phi: np.ndarray) -> np.ndarray:
    """Correlations [p, p] of the gradients by the constants, at a minimum."""
    residual, slope = (part[0] for part in loss.residual(*problem.evaluate(phi[None]), problem.target))
    matrix = (slope * loss.weight(residual)[:, None]).T @ slope
    size = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return matrix / size[:, None] / size[None]
