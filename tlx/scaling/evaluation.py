"""Predictions of a law and their exact gradients, for many vectors of constants at once.

A law is fitted in centred coordinates, where every column has mean 0, so that constants hardly depend on each
other. Arrays: S vectors of constants, n rows of the table, K terms of the law, p constants.
"""

import numpy as np

from tlx.base.errors import DataError
from tlx.scaling.law_form import Law, logsumexp
from tlx.scaling.runs import RunTable, require

# A constant at one of these ends says that the data do not determine it.
EXPONENT_BOUNDS = (1e-3, 5.0)


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
        if self.law.surface is None:
            return _evaluate_terms(self.law, self.centred_design, phi)
        value, slope = self.law.surface.evaluate(self.runs, self.outside(phi))
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
            elif law.surface is not None and name in law.surface.scales:
                low, high = law.surface.scales[name]
                columns.append(rng.uniform(np.log(low), np.log(high), count))
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
            elif self.law.surface is not None and name in self.law.surface.scales:
                lower[i], upper[i] = self.law.surface.bounds
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
    if law.surface is not None:
        value, _ = law.surface.evaluate(runs, vectors)
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


def _evaluate_terms(law: Law, design: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logsumexp of terms that are linear in the constants: value [S, n] and gradient [S, n, p]."""
    rows, terms, size = design.shape
    flat = phi @ design.reshape(rows * terms, size).T
    value, weights = logsumexp(flat.reshape(len(phi), rows, terms))
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
