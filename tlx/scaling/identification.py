"""Checks that a table determines the constants of a law: bounds, flat directions, wide bootstrap intervals.

Arrays: p constants, n rows.
"""

import numpy as np

from tlx.scaling.evaluation import Problem
from tlx.scaling.solver import Loss, block_size, curvature, linearise, solve

# Below this smallest eigenvalue of the gradients' correlations two constants cannot be told apart.
_FLAT = 1e-9

# Fraction of bootstrap draws at a bound from which a constant counts as undetermined. For exponents and
# repeats it is where their 95% interval has no end; a floor E near zero is usual for single draws.
_NO_FLOOR = 0.25
_NO_END = 0.025

# Clusters beyond which constants are drawn from the normal distribution that the bootstrap of so many tends to.
MOST_CLUSTERS = 10_000

# An interval this wide (its end over its beginning) says nothing of an exponent or a number of repeats.
_WIDE = 25.0


def bootstrap(
    problem: Problem, loss: Loss, phi: np.ndarray, groups: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, str]:
    """Refit the law to tables whose runs are drawn with replacement.

    Of more than MOST_CLUSTERS runs the draws are normal, with the covariance of the linearised fit.

    Args:
        problem: The law bound to the table.
        loss: Loss of the residuals.
        phi: Centred constants [p] of the fit, from which every draw starts.
        groups: Index of the run, or other cluster, of each row [n].
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        The law's constants [draws, p], and why they show the data to be too poor (empty where they do not).
    """
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    if count > MOST_CLUSTERS:
        covariance = linearise(problem, loss, phi, groups).covariance()
        drawn = rng.multivariate_normal(phi, covariance, draws, method="eigh")
        drawn = np.clip(drawn, problem.lower, problem.upper)
        return problem.outside(drawn), _too_wide(problem, drawn)
    blocks = []
    size = block_size(problem)
    for begin in range(0, draws, size):
        number = min(size, draws - begin)
        weights = rng.multinomial(count, np.full(count, 1 / count), number)[:, groups].astype(float)
        starts = np.repeat(phi[None], number, 0)
        blocks.append(solve(problem, loss, starts, weights, iterations=60, tolerance=1e-7).phi)
    drawn = np.concatenate(blocks)
    return problem.outside(drawn), _too_wide(problem, drawn)


def undetermined(problem: Problem, loss: Loss, phi: np.ndarray) -> str:
    """Say why a minimum does not determine its constants; empty where it does.

    Args:
        problem: The law bound to the table.
        loss: Loss of the residuals.
        phi: Centred constants [p] of the minimum.

    Returns:
        A reason: a constant at a bound of its range, or constants that move together.
    """
    law = problem.law
    for i, name in enumerate(law.names):
        if name == "":
            continue
        span = problem.upper[i] - problem.lower[i]
        if phi[i] - problem.lower[i] < 1e-3 * span:
            end = "zero" if name in law.coefficients else "the low end of its range"
            return f"{name} goes to {end}"
        if problem.upper[i] - phi[i] < 1e-3 * span and name != "E":
            return f"{name} grows without bound"
        if name == "E" and problem.upper[i] - phi[i] < 1e-9:
            return "E reaches the lowest loss"
    free = [i for i, name in enumerate(law.names) if name != ""]
    matrix = curvature(problem, loss, phi)[np.ix_(free, free)]
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < _FLAT:
        names = [law.names[free[i]] for i in np.flatnonzero(np.abs(vectors[:, 0]) > 0.3)]
        return f"the runs do not tell {' and '.join(names)} apart"
    return ""


def _too_wide(problem: Problem, phi: np.ndarray) -> str:
    """Why bootstrap draws [draws, p] show that the data are too poor; empty where they do not."""
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
        # Centring changes coefficients alone, so an exponent or a number of repeats reads the same from phi.
        low, high = np.quantile(law.params(phi)[name], [0.025, 0.975])
        if name != "E" and high > _WIDE * low:
            return f"{name} lies anywhere from {low:.3g} to {high:.3g}"
    return ""
