"""Data that is seen more than once: Chinchilla's form at effective N and D (Muennighoff et al. 2305.16264).

Arrays: S vectors of constants, n rows of the table, p constants.
"""

import numpy as np

from tlx.scaling.law_form import Surface, logsumexp
from tlx.scaling.runs import RunTable


def _evaluate_repeated(runs: RunTable, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chinchilla's form at Muennighoff's effective N' and D' (2305.16264, equations 5 to 7).

    X' = U (1 + R (1 - exp(-(X / U - 1) / R))), with U the unique tokens, or the parameters that are optimal
    for them: N_opt(U_D) on alpha A N^-alpha = beta B D^-beta, and never more than N.
    """
    a, b, e, alpha, beta, log_rd, log_rn = (column[:, None] for column in theta.T)
    n = np.log(runs["N"])[None]
    d = np.log(runs["D"])[None]
    unique = np.minimum(np.log(runs["D_unique"])[None], d)
    best = (np.log(alpha) + a - np.log(beta) - b + beta * unique) / alpha
    free = best < n  # where U_N is N_opt(U_D)
    log_d, by_rd, _ = _effective(d, unique, log_rd)
    log_n, by_rn, by_un = _effective(n, np.where(free, best, n), log_rn)
    terms = np.broadcast_arrays(a - alpha * log_n, b - beta * log_d, e)
    value, weights = logsumexp(np.stack(terms, -1))
    w_a, w_b, w_e = np.moveaxis(weights, -1, 0)
    # Gradient through U_N, which depends on every constant but E, R_D and R_N.
    through = np.where(free, -w_a * alpha * by_un, 0.0)
    slope = np.stack(
        [
            w_a + through / alpha,
            w_b - through / alpha,
            w_e,
            -w_a * log_n + through * (1 / alpha - best) / alpha,
            -w_b * log_d + through * (unique - 1 / beta) / alpha,
            -w_b * beta * by_rd,
            -w_a * alpha * by_rn,
        ],
        -1,
    )
    return value, slope


def _effective(
    x: np.ndarray, unique: np.ndarray, log_r: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effective ln X', and its derivatives by ln R and by ln U, from logs of X, U and R."""
    r = np.exp(log_r)
    repeats = np.exp(np.clip(x - unique, 0, 50)) - 1
    share = np.exp(-repeats / r)
    total = 1 + r * (1 - share)
    by_r = (1 - share) - share * repeats / r
    return unique + np.log(total), r * by_r / total, 1 - (repeats + 1) * share / total


REPETITION = Surface(_evaluate_repeated, {"R_D": (1, 50), "R_N": (1, 50)})
