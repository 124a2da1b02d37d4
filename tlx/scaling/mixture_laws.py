"""Laws of data mixtures: the loss of small runs regressed on their sources' weights, and the weights that are best.

As RegMix does (Liu et al. 2407.01492), many small runs of one size and length differ in their weights alone; a
regression tells the loss of any weights, and the best are searched among many draws. With fractions w of K sources,
one of

    linear       L = sum_i b_i w_i                                        (RegMix's linear regression)
    quadratic    L = sum_i b_i w_i + sum_{i<j} b_ij w_i w_j               (Scheffe 1958, mixtures' canonical form)
    exponential  L = c + exp(sum_i t_i w_i)                               (Ye et al. 2403.16952, one domain's law)
    power        L = c + sum_i b_i (w_i + s)^-alpha                       (each source's own law of its weight, as in
                                                                           BiMix, Ge et al. 2405.14908)

is chosen by the error of runs that are left out. Arrays: n runs, K sources, p constants.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares, minimize

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.metrics.correlation import spearman
from tlx.scaling.runs import as_table, describe_row

FORMS = ("linear", "quadratic", "exponential", "power")

# Columns of the sources' weights in ledgers of plan_mixtures.
PREFIX = "w_"

_FOLDS = 10
_DRAWS = 100
_CANDIDATES = 20_000

# Ridges of the quadratic's interactions that are compared, in units of relative error.
_RIDGES = (1e-6, 1e-4, 1e-2, 1.0)

# s and alpha of the power form that are compared.
_SHIFTS = (0.01, 0.03, 0.1)
_POWERS = (0.1, 0.3, 0.6, 1.0)


class BestMixture(NamedTuple):
    """The weights that a regression calls best."""

    weights: dict[str, float]
    """Fraction of each source."""

    loss: float
    """Expected loss there."""

    low: float
    """Lower end of the 95% interval of the expected loss."""

    high: float
    """Upper end of it."""

    probability: float
    """Probability, over bootstrap draws, that the loss there is below that of the reference weights."""

    gain: float
    """Median fraction by which the loss there is below that of the reference."""

    outside: float
    """Largest amount by which a weight lies outside the range of the runs' weights; 0 inside."""


class MixtureFit:
    """A regression of the loss on the weights of the sources."""

    def __init__(
        self, runs: Any, columns: Sequence[str] = (), target: str = "loss", form: str = "auto", seed: int = 0
    ):
        """Fit the form that predicts left-out runs best.

        Args:
            runs: Table with a column of weights for each source, and the target; or anything that load_runs takes.
            columns: The columns of weights; empty for all whose name begins with w_.
            target: Column of the losses, above 0.
            form: One of FORMS, or auto.
            seed: Seed of the folds and the bootstrap.

        Raises:
            ConfigError: The form is unknown.
            DataError: A column is missing or not legal, or the runs are too few.
        """
        if form not in (*FORMS, "auto"):
            raise ConfigError(one_of("form", form, (*FORMS, "auto")))
        table = as_table(runs)
        self.columns = tuple(columns) or tuple(name for name in table if name.startswith(PREFIX))
        self._weights = _weights_of(table, self.columns)
        self._losses = _losses_of(table, target)
        sources = len(self.columns)
        if len(self._losses) < sources + 3:
            raise DataError(f"{len(self._losses)} runs for {sources} sources: {sources + 3} are needed")
        rank = np.linalg.matrix_rank(self._weights - self._weights.mean(0), tol=1e-6)
        if rank < sources - 1:
            raise DataError(
                f"the weights of the runs vary in {rank} of {sources - 1} directions: add runs whose weights differ "
                "in the others"
            )
        self._rng = np.random.default_rng(seed)
        self.errors = {name: self._left_out(name) for name in (FORMS if form == "auto" else (form,))}
        """Root mean square error of ln loss of left-out runs, by form."""
        self.form = min(self.errors, key=lambda name: self.errors[name])
        self.theta = _solve(self.form, self._weights, self._losses)
        predicted = self._predict_left_out(self.form)
        self.rank_correlation = spearman(predicted, self._losses)
        """Rank correlation of left-out runs' predicted and measured losses, which RegMix judges by."""
        self._draws = [
            _solve(self.form, self._weights[rows], self._losses[rows], self.theta)
            for rows in self._rng.integers(0, len(self._losses), (_DRAWS, len(self._losses)))
            if np.linalg.matrix_rank(self._weights[rows] - self._weights[rows].mean(0), tol=1e-6)
            == sources - 1
        ]

    @property
    def params(self) -> dict[str, float]:
        """Constants by name; b_ij of a quadratic are named by both sources."""
        names = list(self.columns)
        if self.form == "exponential":
            return dict(zip(["c", *(f"t {name}" for name in names)], map(float, self.theta), strict=True))
        if self.form == "power":
            names = ["s", "alpha", "c", *(f"b {name}" for name in names)]
        if self.form == "quadratic":
            names += [f"{names[i]} {names[j]}" for i, j in _pairs(len(names))]
        return dict(zip(names, map(float, self.theta), strict=True))

    def predict(self, weights: dict[str, float], interval: float = 0.95) -> tuple[float, float, float]:
        """Predict the loss of a run.

        Args:
            weights: Weight of each source; their sum does not matter.
            interval: Probability that the interval holds the measured loss.

        Returns:
            The loss, and the ends of its interval: constants and the error of left-out runs.

        Raises:
            ConfigError: The sources are not those of the runs, or a weight is negative.
        """
        row = self._row(weights)
        center = float(_values(self.form, self.theta, row)[0])
        draws = np.array([_values(self.form, theta, row)[0] for theta in self._draws])
        errors = self.errors[self.form] * self._rng.standard_normal(len(draws))
        low, high = np.quantile(draws * np.exp(errors), [(1 - interval) / 2, (1 + interval) / 2])
        return center, float(min(low, center)), float(max(high, center))

    def best(
        self, reference: dict[str, float] | None = None, most: dict[str, float] | None = None
    ) -> BestMixture:
        """Find the weights with the lowest expected loss.

        Args:
            reference: Weights to compare with; None for the runs' mean.
            most: Largest fraction of a source, for those that hold too little text; None for none.

        Returns:
            The weights. Their loss is that of all bootstrap draws together, since the lowest of many noisy values is
            too low.

        Raises:
            ConfigError: The sources are not those of the runs, or the largest fractions leave no mixture.
        """
        caps = np.ones(len(self.columns))
        for name, cap in (most or {}).items():
            if name not in self.columns:
                raise ConfigError(one_of("most", name, self.columns))
            caps[self.columns.index(name)] = cap
        if caps.sum() < 1 or (caps < 0).any():
            raise ConfigError(f"most = {most}: the largest fractions must be 0 or more and leave a sum of 1")
        other = self._weights.mean(0, keepdims=True) if reference is None else self._row(reference)
        weights = self._search(caps)
        there = np.array([_values(self.form, theta, weights[None])[0] for theta in self._draws])
        before = np.array([_values(self.form, theta, other)[0] for theta in self._draws])
        low, high = np.quantile(there, [0.025, 0.975])
        beyond = np.maximum(self._weights.min(0) - weights, weights - self._weights.max(0))
        return BestMixture(
            weights=dict(zip(self.columns, map(float, weights), strict=True)),
            loss=float(np.median(there)),
            low=float(low),
            high=float(high),
            probability=float((there < before).mean()),
            gain=float(np.median(1 - there / before)),
            outside=float(max(0.0, beyond.max())),
        )

    def _search(self, caps: np.ndarray) -> np.ndarray:
        """The weights [K] with the least mean of the draws' losses: many draws of weights, then a descent."""
        rough = self._rng.dirichlet(np.full(len(caps), 0.7), _CANDIDATES)
        inside = rough[(rough <= caps).all(1)]
        start = np.minimum(caps, 1 / len(caps))
        if len(inside):
            means = np.mean([_values(self.form, theta, inside) for theta in self._draws[:20]], axis=0)
            start = inside[np.argmin(means)]
        start = start + (1 - start.sum()) * (caps - start) / max((caps - start).sum(), 1e-12)
        found = minimize(
            lambda w: float(np.mean([_values(self.form, theta, w[None])[0] for theta in self._draws])),
            start,
            bounds=[(0.0, cap) for cap in caps],
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
        )
        weights = np.clip(found.x, 0, caps)
        return weights / weights.sum()

    def _row(self, weights: dict[str, float]) -> np.ndarray:
        if set(weights) != set(self.columns):
            raise ConfigError(f"weights are of {', '.join(weights)}; the runs have {', '.join(self.columns)}")
        row = np.array([weights[name] for name in self.columns], float)
        if not (row >= 0).all() or not row.sum() > 0:
            raise ConfigError(f"weights = {weights} must be 0 or more, and not all 0")
        return (row / row.sum())[None]

    def _left_out(self, form: str) -> float:
        """Root mean square error of ln loss of runs that are left out, fold by fold; infinite for too few runs."""
        predicted = self._predict_left_out(form)
        if not (predicted > 0).all():
            return np.inf
        return float(np.sqrt(np.mean(np.log(predicted / self._losses) ** 2)))

    def _predict_left_out(self, form: str) -> np.ndarray:
        count = len(self._losses)
        # The same folds for every form.
        fold = np.random.default_rng(count).permutation(count) % min(_FOLDS, count)
        predicted = np.empty(count)
        for held in range(fold.max() + 1):
            rest = fold != held
            theta = _solve(form, self._weights[rest], self._losses[rest])
            predicted[~rest] = _values(form, theta, self._weights[~rest])
        return predicted


def _weights_of(table: dict[str, np.ndarray], columns: Sequence[str]) -> np.ndarray:
    """Fractions [n, K] of the sources. Raises DataError."""
    missing = [name for name in columns if name not in table]
    if missing or len(columns) < 2:
        problem = f"it has no {', '.join(missing)}" if missing else f"it has {len(columns)}"
        raise DataError(
            f"a mixture needs the weights of two sources or more, in columns such as {PREFIX}0 and {PREFIX}1: "
            f"{problem}; the table has {', '.join(table)}"
        )
    weights = np.stack([table[name] for name in columns], 1)
    rule = f"the weights in {', '.join(columns)} must be numbers, 0 or more, and not all 0 in a run"
    if weights.dtype == object:
        raise DataError(rule)
    bad = np.flatnonzero(~((np.isfinite(weights) & (weights >= 0)).all(1) & (weights.sum(1) > 0)))
    if len(bad):
        row = int(bad[0])
        values = ", ".join(f"{name} {value:g}" for name, value in zip(columns, weights[row], strict=True))
        raise DataError(f"{rule}: {describe_row(table, row)} has {values}")
    return weights / weights.sum(1, keepdims=True)


def _losses_of(table: dict[str, np.ndarray], target: str) -> np.ndarray:
    if target not in table or table[target].dtype == object:
        raise DataError(f"a mixture needs numbers in the column {target!r}; the table has {', '.join(table)}")
    losses = table[target]
    bad = np.flatnonzero(~(np.isfinite(losses) & (losses > 0)))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"the column {target!r} must be positive and finite: {describe_row(table, row)} has {losses[row]:g}"
        )
    return losses


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def _terms(form: str, weights: np.ndarray) -> np.ndarray:
    """Features [n, p] of a form that is linear in its constants."""
    if form == "linear":
        return weights
    products = [weights[:, i] * weights[:, j] for i, j in _pairs(weights.shape[1])]
    return np.hstack([weights, np.stack(products, 1)])


def _values(form: str, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Losses [n] of weights [n, K]."""
    if form == "power":
        return theta[2] + (weights + theta[0]) ** -theta[1] @ theta[3:]
    if form == "exponential":
        return theta[0] + np.exp(np.clip(weights @ theta[1:], -50, 50))
    return _terms(form, weights) @ theta


def _solve(form: str, weights: np.ndarray, losses: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Constants of a form by least squares in relative error, near `start` where there is one."""
    if form == "exponential":
        return _solve_exponential(weights, losses, start)
    if form == "power":
        return _solve_power(weights, losses)
    scaled = _terms(form, weights) / losses[:, None]
    if form == "linear":
        return np.linalg.lstsq(scaled, np.ones(len(losses)), rcond=None)[0]
    interactions = np.arange(scaled.shape[1]) >= weights.shape[1]
    return min((_ridge(scaled, ridge * interactions) for ridge in _RIDGES), key=lambda solution: solution[0])[
        1
    ]


def _ridge(scaled: np.ndarray, penalty: np.ndarray) -> tuple[float, np.ndarray]:
    """Ridge regression of ones on scaled features [n, p]: the exact error of leaving one run out, and constants."""
    inverse = np.linalg.inv(scaled.T @ scaled + np.diag(penalty + 1e-10))
    theta = inverse @ scaled.sum(0)
    leverage = np.einsum("np,pq,nq->n", scaled, inverse, scaled)
    errors = (1 - scaled @ theta) / np.maximum(1 - leverage, 1e-3)
    return float(errors @ errors), theta


def _solve_power(weights: np.ndarray, losses: np.ndarray) -> np.ndarray:
    best = (np.inf, np.empty(0))
    for shift in _SHIFTS:
        for power in _POWERS:
            terms = np.hstack([np.ones((len(losses), 1)), (weights + shift) ** -power])
            error, theta = _ridge(terms / losses[:, None], np.full(terms.shape[1], 1e-8))
            if error < best[0]:
                best = (error, np.concatenate([[shift, power], theta]))
    return best[1]


def _solve_exponential(weights: np.ndarray, losses: np.ndarray, start: np.ndarray | None) -> np.ndarray:
    starts = [] if start is None else [start]
    if start is None:
        for share in (0.3, 0.7, 0.95):
            floor = share * losses.min()
            slopes = np.linalg.lstsq(weights, np.log(losses - floor), rcond=None)[0]
            starts.append(np.array([floor, *slopes]))
    solutions = [
        least_squares(
            lambda theta: _values("exponential", theta, weights) / losses - 1,
            begin,
            x_scale="jac",
            max_nfev=100,
        )
        for begin in starts
    ]
    return min(solutions, key=lambda solution: solution.cost).x
