"""Fits a law from many starts at once: robust loss on log residuals, exact gradients, no early stop.

All starts (or all bootstrap draws) advance together by damped Gauss-Newton steps on the reweighted problem. A
step is taken only where the loss itself falls, and convergence is judged relative to the loss: an absolute
tolerance on a mean of 4e-6 is how Chinchilla's own fit stopped early. Arrays: S starts, n rows, p constants.
"""

from typing import NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.scaling.evaluation import Problem


class Loss(NamedTuple):
    """A robust loss of residuals: quadratic within delta, linear beyond.

    Residuals are of ln loss; with `plain`, of the loss itself (least squares as scipy's curve_fit does them).
    """

    name: str
    """Text that the loss was parsed from ("huber:1e-3")."""

    delta: float
    """Residual at which the loss turns from quadratic to linear; infinite for least squares."""

    plain: bool = False
    """Whether residuals are of the loss itself instead of its logarithm."""

    def residual(
        self, prediction: np.ndarray, slope: np.ndarray, target: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the residuals and their gradient.

        Args:
            prediction: ln prediction [S, n].
            slope: Gradient of ln prediction [S, n, p].
            target: ln of the measured values [n].

        Returns:
            Residuals [S, n] and their gradient [S, n, p].
        """
        if not self.plain:
            return prediction - target, slope
        value = np.exp(prediction)
        return value - np.exp(target), slope * value[..., None]

    def value(self, residual: np.ndarray) -> np.ndarray:
        """Return the loss of each residual."""
        size = np.abs(residual)
        if np.isinf(self.delta):
            return residual**2 / 2
        return np.where(size <= self.delta, residual**2 / 2, self.delta * (size - self.delta / 2))

    def weight(self, residual: np.ndarray) -> np.ndarray:
        """Return the derivative of the loss divided by the residual: the weight of a reweighted square."""
        if np.isinf(self.delta):
            return np.ones_like(residual)
        return np.minimum(1.0, self.delta / np.maximum(np.abs(residual), 1e-300))


def parse_loss(text: str) -> Loss:
    """Parse "huber:1e-3", "lad" or "l2", all of ln loss, or "l2:plain", of the loss itself.

    Raises ConfigError for another name or a delta that is no number.
    """
    name, _, delta = text.partition(":")
    if text == "l2:plain":
        return Loss(text, np.inf, plain=True)
    if name not in ("huber", "lad", "l2"):
        raise ConfigError(one_of("loss", text, ("huber:DELTA", "lad", "l2", "l2:plain")))
    if name == "lad":
        return Loss(text, 1e-7)
    if name == "l2":
        return Loss(text, np.inf)
    try:
        return Loss(text, float(delta or 1e-3))
    except ValueError as error:
        raise ConfigError(f"loss = {text!r}: {delta!r} is no number") from error


class Solution(NamedTuple):
    """The end of every start, in the problem's centred coordinates."""

    phi: np.ndarray
    """Constants [S, p]."""

    objective: np.ndarray
    """Sum of the losses of all rows [S]."""

    gradient: np.ndarray
    """Norm of the gradient relative to the objective [S], without constants that are held at a bound."""


# Starts that are solved together; larger blocks leave the cache and are slower.
_BLOCK = 128

# Numbers in the gradients of a block: starts times rows times constants. Large tables have smaller blocks.
_MOST_NUMBERS = 20_000_000


def block_size(problem: Problem) -> int:
    """Return the number of starts whose gradients on the table fit into the memory that a block may take."""
    return int(np.clip(_MOST_NUMBERS // (len(problem.target) * problem.size), 1, _BLOCK))


def solve(
    problem: Problem,
    loss: Loss,
    starts: np.ndarray,
    weights: np.ndarray | None = None,
    iterations: int = 200,
    tolerance: float = 1e-13,
) -> Solution:
    """Minimise sum_i w_i loss(ln prediction_i - ln target_i) from every start.

    Args:
        problem: A law bound to a table of n rows.
        loss: Loss of the residuals.
        starts: Centred constants [S, p] to start from.
        weights: Weights of the rows: [n], or [S, n] for one problem per start (bootstrap draws); None for
            ones.
        iterations: Most steps of one start.
        tolerance: A start ends after 8 steps in a row that lower its objective by less than this fraction.

    Returns:
        The end of every start.
    """
    blocks = []
    size = block_size(problem)
    for begin in range(0, len(starts), size):
        rows = slice(begin, begin + size)
        row_weights = weights
        if weights is not None and weights.ndim == 2:
            row_weights = weights[rows]
        blocks.append(_solve_block(problem, loss, starts[rows], row_weights, iterations, tolerance))
    return Solution(
        np.concatenate([block.phi for block in blocks]),
        np.concatenate([block.objective for block in blocks]),
        np.concatenate([block.gradient for block in blocks]),
    )


def polish(problem: Problem, loss: Loss, phi: np.ndarray) -> Solution:
    """Find the best minimum near one vector, to the last digit.

    A robust loss is also approached through wider deltas, since its own objective has small local minima.

    Args:
        problem: A law bound to a table.
        loss: Loss of the residuals.
        phi: Centred constants [p].

    Returns:
        The better of both ways, with S = 1.
    """
    best = solve(problem, loss, phi[None], iterations=600, tolerance=1e-15)
    if np.isfinite(loss.delta):
        start = phi[None]
        for factor in (30, 10, 3, 1):
            start = solve(problem, Loss(loss.name, loss.delta * factor), start, iterations=300).phi
        other = solve(problem, loss, start, iterations=600, tolerance=1e-15)
        if other.objective[0] < best.objective[0]:
            best = other
    return best


def _solve_block(
    problem: Problem,
    loss: Loss,
    starts: np.ndarray,
    weights: np.ndarray | None,
    iterations: int,
    tolerance: float,
) -> Solution:
    """Levenberg-Marquardt on all starts of a block at once; those that have converged leave the arrays."""
    count = len(starts)
    if weights is None:
        weights = np.ones(len(problem.target))
    solution = Solution(starts.copy(), np.full(count, np.inf), np.full(count, np.inf))
    active = np.arange(count)
    phi = starts.copy()
    row_weights = np.broadcast_to(weights, (count, weights.shape[-1]))
    damping = np.full(count, 1e-2)
    quiet = np.zeros(count, int)  # steps in a row without progress
    residual, slope = loss.residual(*problem.evaluate(phi), problem.target)
    objective = (row_weights * loss.value(residual)).sum(-1)
    for _ in range(iterations):
        step, gradient = _step(problem, loss, phi, residual, slope, row_weights, damping)
        tried = np.clip(phi + step, problem.lower, problem.upper)
        new_residual, new_slope = loss.residual(*problem.evaluate(tried), problem.target)
        new_objective = (row_weights * loss.value(new_residual)).sum(-1)
        better = new_objective < objective
        quiet = np.where(better & (objective - new_objective > tolerance * objective), 0, quiet + 1)
        phi = np.where(better[:, None], tried, phi)
        residual = np.where(better[:, None], new_residual, residual)
        slope = np.where(better[:, None, None], new_slope, slope)
        objective = np.where(better, new_objective, objective)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e9)
        solution.phi[active] = phi
        solution.objective[active] = objective
        solution.gradient[active] = gradient
        running = (quiet < 8) & (objective > 1e-28)
        if not running.any():
            break
        # Compact the arrays only once a fifth has converged: copying costs as much as a step.
        if running.mean() < 0.8:
            active = active[running]
            phi = phi[running]
            residual = residual[running]
            slope = slope[running]
            objective = objective[running]
            damping = damping[running]
            quiet = quiet[running]
            row_weights = row_weights[running]
    return solution


def _step(
    problem: Problem,
    loss: Loss,
    phi: np.ndarray,
    residual: np.ndarray,
    slope: np.ndarray,
    row_weights: np.ndarray,
    damping: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Damped Gauss-Newton step [S, p] on the reweighted squares, and the gradient's relative norm [S]."""
    weight = row_weights * loss.weight(residual)
    weighted = slope * weight[..., None]
    gradient = np.matmul(residual[:, None, :], weighted)[:, 0]
    hessian = np.matmul(weighted.transpose(0, 2, 1), slope)
    diagonal = np.einsum("spp->sp", hessian).copy()
    # A constant at a bound that the gradient pushes outwards is held there: its row and column are removed.
    held = (phi <= problem.lower) & (gradient > 0) | (phi >= problem.upper) & (gradient < 0)
    gradient = np.where(held, 0.0, gradient)
    hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
    scale = np.maximum(diagonal, 1e-12 * diagonal.max(-1, keepdims=True) + 1e-300)
    diagonal_add = np.where(held, 1.0, damping[:, None] * scale + 1e-14 * scale)
    hessian[:, range(phi.shape[1]), range(phi.shape[1])] += diagonal_add
    step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
    objective = (row_weights * loss.value(residual)).sum(-1)
    relative = np.linalg.norm(gradient / np.sqrt(scale), axis=-1) / np.sqrt(np.maximum(objective, 1e-300))
    return step, relative


def curvature(problem: Problem, loss: Loss, phi: np.ndarray) -> np.ndarray:
    """Return the correlations of the gradients at a minimum.

    A small eigenvalue is a direction without curvature: constants that cannot be told apart.

    Args:
        problem: A law bound to a table.
        loss: Loss of the residuals.
        phi: Centred constants [p].

    Returns:
        Symmetric matrix [p, p] with ones on its diagonal.
    """
    residuals, slopes = loss.residual(*problem.evaluate(phi[None]), problem.target)
    slope = slopes[0]
    matrix = (slope * loss.weight(residuals[0])[:, None]).T @ slope
    size = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return matrix / size[:, None] / size[None]


class Linearised(NamedTuple):
    """A minimum of the loss to first order in the weights of the table's clusters."""

    scores: np.ndarray
    """Gradient of each cluster's loss [clusters, p]."""

    inverse: np.ndarray
    """Inverse [p, p] of the expected second derivatives of the loss."""

    def without_each(self) -> np.ndarray:
        """Return the change of the constants when a cluster is left out [clusters, p]."""
        return self.scores @ self.inverse

    def covariance(self) -> np.ndarray:
        """Return the covariance [p, p] of the constants over tables of as many clusters."""
        return self.inverse @ (self.scores.T @ self.scores) @ self.inverse


def linearise(problem: Problem, loss: Loss, phi: np.ndarray, groups: np.ndarray) -> Linearised:
    """Linearise the minimum of a robust loss, for tables whose clusters are too many to be refitted one by one.

    Args:
        problem: A law bound to a table.
        loss: Loss of the residuals.
        phi: Centred constants [p] of the minimum.
        groups: Index of the cluster of each row [n].

    Returns:
        Scores and inverse second derivatives.
    """
    residuals, slopes = loss.residual(*problem.evaluate(phi[None]), problem.target)
    residual = residuals[0]
    slope = slopes[0]
    pulls = slope * (loss.weight(residual) * residual)[:, None]
    count = int(groups.max()) + 1
    scores = np.stack([np.bincount(groups, column, count) for column in pulls.T], -1)
    # A Huber loss is curved within delta alone; where few residuals are, their density around 0 says how many.
    width = max(loss.delta, 0.5 * float(np.median(np.abs(residual))))
    near = slope[np.abs(residual) <= width]
    scale = 1.0 if np.isinf(loss.delta) else loss.delta / width
    return Linearised(scores, np.linalg.pinv(scale * near.T @ near, hermitian=True))
