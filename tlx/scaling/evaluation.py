"""Predictions of a law and their exact gradients, for many vectors of constants at once.

A law is fitted in centred coordinates, where every column has mean 0, so that constants hardly depend on each
other. Arrays: S vectors of constants, n rows of the table, K terms of the law, p constants.
"""

import numpy as np

from tlx.base.errors import DataError
from tlx.scaling.laws import Law
from tlx.scaling.runs import RunTable, require

# A constant at one of these ends says that the data do not determine it.
EXPONENT_BOUNDS = (1e-3, 5.0)
REPEAT_BOUNDS = (np.log(1e-2), np.log(1e4))

_REPEAT_CONSTANTS = ("R_D", "R_N")


class Problem:
    """A law bound to a table: predictions, gradients, bounds and starts for a solver.

    Vectors are in centred coordinates; `outside` and `inside` convert between them and the law's own
    constants.
    """

    def __init__(self, law: Law, runs: RunTable):
        """Bind a law to a table. Raises DataError where the table lacks what the law needs."""
        require(runs, (*law.columns, law.target), f"law {law.name!r}")
        _refuse_repeated_data(law, runs)
        self.law = law
        self.runs = runs
        self.target = np.log(runs[law.target].astype(float))
        design = design_matrix(law, runs)
        self.change = _centring(law, design)
        self.centred_design = design @ np.linalg.inv(self.change)
        self.lower, self.upper = self._bounds()

    @property
    def size(self) -> int:
        """Number of constants p."""
        return len(self.law.names)

    def outside(self, phi: np.ndarray) -> np.ndarray:
        """Convert centred constants [..., p] to the law's."""
        return phi @ np.linalg.inv(self.change).T

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """Convert the law's constants [..., p] to centred ones."""
        return theta @ self.change.T

    def evaluate(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ln prediction [S, n] and its gradient [S, n, p] for centred vectors [S, p]."""
        if not self.law.repeated:
            return _evaluate_terms(self.law, self.centred_design, phi)
        value, slope = _evaluate_repeated(self.runs, self.outside(phi))
        return value, slope @ np.linalg.inv(self.change)

    def starts(self, count: int, seed: int = 0) -> np.ndarray:
        """Draw starting vectors [count, p], spread over the constants that such losses can come from."""
        rng = np.random.default_rng(seed)
        law = self.law
        level = 0.0 if law.outer else float(np.median(self.target))
        columns = []
        for name in law.names:
            if name in law.coefficients:
                if len(law.terms) > 1:
                    spread = rng.uniform(-4, 0.2, count)
                else:
                    spread = rng.normal(0, 0.3, count)
                columns.append(level + spread)
            elif name in _REPEAT_CONSTANTS:
                columns.append(rng.uniform(np.log(1), np.log(50), count))
            else:
                columns.append(np.exp(rng.uniform(np.log(0.05), np.log(1.2), count)))
        return np.clip(np.stack(columns, -1), self.lower, self.upper)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends [p] and [p] between which each centred constant lies."""
        lower = np.full(self.size, -60.0)
        upper = np.full(self.size, 60.0)
        for i, name in enumerate(self.law.names):
            if name == "E":  # between almost nothing and the lowest loss
                lower[i] = self.target.min() - np.log(1000)
                upper[i] = self.target.min()
            elif name == "":  # an exponent that is 1 by the law's form
                lower[i] = 1.0
                upper[i] = 1.0
            elif name in _REPEAT_CONSTANTS:
                lower[i], upper[i] = REPEAT_BOUNDS
            elif name not in self.law.coefficients:
                lower[i], upper[i] = EXPONENT_BOUNDS
        return lower, upper


def predict_log(law: Law, runs: RunTable, theta: np.ndarray) -> np.ndarray:
    """Predict ln loss for the rows of a table.

    Args:
        law: The law.
        runs: Columns that the law reads; the target is not needed.
        theta: Constants [p], or [..., p] for many bootstrap draws.

    Returns:
        ln prediction [..., n].
    """
    vectors = np.atleast_2d(theta)
    if law.repeated:
        value, _ = _evaluate_repeated(runs, vectors)
    else:
        value, _ = _evaluate_terms(law, design_matrix(law, runs), vectors)
    return value.reshape(*np.shape(theta)[:-1], -1)


def design_matrix(law: Law, runs: RunTable) -> np.ndarray:
    """Return [n, K, p]: the factor of each constant in each term, where M = D / N is tokens per parameter."""
    columns = {name: np.log(np.asarray(runs[name], float)) for name in law.columns}
    if "M" in {column for _, parts in law.terms for signs in parts.values() for column in signs}:
        columns["M"] = columns["D"] - columns["N"]
    rows = len(next(iter(columns.values())))
    design = np.zeros((rows, len(law.terms), len(law.names)))
    for k, (coefficient, parts) in enumerate(law.terms):
        design[:, k, law.names.index(coefficient)] = 1
        for exponent, signs in parts.items():
            factor = sum(sign * columns[column] for column, sign in signs.items())
            design[:, k, law.names.index(exponent)] = factor
    return design


def _refuse_repeated_data(law: Law, runs: RunTable) -> None:
    """Raise DataError where a law of one epoch meets runs with D > D_unique."""
    if not law.one_epoch or "D_unique" not in runs or "D" not in law.columns:
        return
    repeats = runs["D"] > runs["D_unique"] * (1 + 1e-6)
    if repeats.any():
        raise DataError(
            f"{repeats.sum()} runs see their text more than once (D > D_unique), which law {law.name!r} does "
            "not describe; use law='repeat' or leave them out"
        )


def _centring(law: Law, design: np.ndarray) -> np.ndarray:
    """Matrix [p, p] to coefficients that stand for the table's geometric means."""
    change = np.eye(len(law.names))
    for k, (coefficient, parts) in enumerate(law.terms):
        for exponent in parts:
            j = law.names.index(exponent)
            change[law.names.index(coefficient), j] = design[:, k, j].mean()
    return change


def _logsumexp(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logsumexp over the last dim, and the softmax weights."""
    # The largest term is taken out, so that no exponential overflows.
    top = terms.max(-1, keepdims=True)
    powers = np.exp(terms - top)
    total = powers.sum(-1, keepdims=True)
    return (top + np.log(total))[..., 0], powers / total


def _evaluate_terms(law: Law, design: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logsumexp of terms that are linear in the constants: value [S, n] and gradient [S, n, p]."""
    rows, terms, size = design.shape
    flat = phi @ design.reshape(rows * terms, size).T
    value, weights = _logsumexp(flat.reshape(len(phi), rows, terms))
    slope = np.zeros((len(phi), rows, size))
    # A term touches few constants: a loop over those is faster than a full einsum.
    for k in range(terms):
        for j in np.flatnonzero(design[:, k].any(0)):
            slope[:, :, j] += weights[:, :, k] * design[:, k, j]
    if law.outer:
        outer = law.names.index(law.outer)
        power = phi[:, [outer]]
        slope *= power[..., None]
        slope[:, :, outer] = value
        value = value * power
    return value, slope


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
    value, weights = _logsumexp(np.stack(terms, -1))
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
