"""Scaling laws as sums of power terms in log space: predictions and exact gradients.

ln loss = logsumexp of terms, each linear in the constants: ln A - alpha ln N, ln B - beta ln D, ln E. A law
is fitted in coordinates where every column has mean 0, so that constants hardly depend on each other.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.scaling.runs import RunTable, require

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# An exponent at one of these ends says that the data do not determine it.
EXPONENTS = (1e-3, 5.0)
REPEATS = (np.log(1e-2), np.log(1e4))


@dataclasses.dataclass(frozen=True)
class Law:
    """terms: (coefficient, {exponent: {column: sign}}); the exponent "" is 1. outer: an exponent on the
    whole sum (Kaplan's L(N,D)). target: the column that is predicted. repeated: N and D are the effective
    ones of Muennighoff et al."""

    name: str
    terms: tuple[tuple[str, Mapping[str, Mapping[str, float]]], ...]
    columns: tuple[str, ...]
    target: str = "loss"
    outer: str = ""
    repeated: bool = False
    source: str = ""

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, parts in self.terms for name in parts))

    @property
    def names(self) -> tuple[str, ...]:
        """Order of the vector of constants: logs of coefficients, exponents, the rest."""
        extra = ((self.outer,) if self.outer else ()) + (("R_D", "R_N") if self.repeated else ())
        return self.coefficients + self.exponents + extra

    @property
    def logs(self) -> tuple[str, ...]:
        """Constants whose logarithm stands in the vector."""
        return (*self.coefficients, *(("R_D", "R_N") if self.repeated else ()))

    def params(self, theta: np.ndarray) -> dict[str, float]:
        """Constants as they are published, from the vector (or [..., p] vectors)."""
        found = dict(zip(self.names, np.moveaxis(np.asarray(theta, float), -1, 0), strict=True))
        for name in self.logs:
            found[name] = np.exp(found[name])
        found.pop("", None)
        return found

    def theta(self, params: Mapping[str, float]) -> np.ndarray:
        """The vector of published constants."""
        values = {"": 1.0, **params}
        return np.array([np.log(values[n]) if n in self.logs else values[n] for n in self.names], float)


_CHINCHILLA = (("A", {"alpha": {"N": -1}}), ("B", {"beta": {"D": -1}}), ("E", {}))

LAWS = {
    law.name: law
    for law in (
        Law("chinchilla", _CHINCHILLA, ("N", "D"), source="Hoffmann et al. 2203.15556"),
        Law("kaplan_n", (("A", {"alpha": {"N": -1}}),), ("N",), source="Kaplan et al. 2001.08361"),
        Law("kaplan_d", (("B", {"beta": {"D": -1}}),), ("D",), source="Kaplan et al. 2001.08361"),
        Law("kaplan_c", (("K", {"gamma": {"flops": -1}}),), ("flops",), source="Kaplan et al. 2001.08361"),
        # ln L = beta logsumexp(ln A - p ln N, ln D_c - ln D), p = alpha_N / alpha_D
        Law(
            "kaplan",
            (("A", {"p": {"N": -1}}), ("D_c", {"": {"D": -1}})),
            ("N", "D"),
            outer="beta",
            source="Kaplan et al. 2001.08361",
        ),
        Law(
            "overtrain",
            (
                ("a", {"eta": {"M": 1, "flops": -1}}),
                ("b", {"eta": {"M": -1, "flops": -1}}),
                ("E", {}),
            ),
            ("N", "D", "flops"),
            source="Gadre et al. 2403.08540",
        ),
        Law(
            "repeat",
            _CHINCHILLA,
            ("N", "D", "D_unique"),
            repeated=True,
            source="Muennighoff et al. 2305.16264",
        ),
        Law(
            "encdec",
            (("A", {"p_enc": {"N_enc": -1}, "p_dec": {"N_dec": -1}}), ("E", {})),
            ("N_enc", "N_dec"),
            source="Ghorbani et al. 2109.07740",
        ),
        Law(
            "encdec_data",
            (("A", {"p_enc": {"N_enc": -1}, "p_dec": {"N_dec": -1}}), ("B", {"beta": {"D": -1}}), ("E", {})),
            ("N_enc", "N_dec", "D"),
            source="Ghorbani et al. 2109.07740, with a term for the data",
        ),
        Law(
            "transfer",
            (("k", {"a": {"D_F": 1}, "b": {"N": 1}}),),
            ("D_F", "N"),
            target="D_T",
            source="Hernandez et al. 2102.01293",
        ),
    )
}


def get_law(name: str) -> Law:
    """The law called `name`. Raises ConfigError with the choices."""
    if name not in LAWS:
        raise ConfigError(one_of("law", name, LAWS))
    return LAWS[name]


class Problem:
    """A law bound to a table: what a solver needs.

    Vectors are in centred coordinates; `outside` and `inside` change between them and the law's own.
    """

    def __init__(self, law: Law, runs: RunTable):
        require(runs, (*law.columns, law.target), law.name)
        self.law, self.runs = law, runs
        self.target = np.log(runs[law.target].astype(float))
        self.design = _design(law, runs)  # [n, K, p]
        self.change = _centring(law, self.design)
        self.centred = self.design @ np.linalg.inv(self.change)
        self.lower, self.upper = self._bounds()

    @property
    def size(self) -> int:
        return len(self.law.names)

    def outside(self, phi: np.ndarray) -> np.ndarray:
        """Law's constants [..., p] of centred ones."""
        return phi @ np.linalg.inv(self.change).T

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """Centred constants [..., p] of the law's."""
        return theta @ self.change.T

    def evaluate(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ln prediction [S, n] and its gradient [S, n, p], for S vectors."""
        if not self.law.repeated:
            return _linear(self.law, self.centred, phi)
        value, slope = _repeated(self.law, self.runs, self.outside(phi))
        return value, slope @ np.linalg.inv(self.change)

    def starts(self, count: int, seed: int = 0) -> np.ndarray:
        """Vectors [count, p] to start from, spread over what losses can come from."""
        rng = np.random.default_rng(seed)
        law, level = self.law, float(np.median(self.target))
        columns = []
        for name in law.names:
            if name in law.coefficients:
                middle = 0.0 if law.outer else level
                spread = rng.uniform(-4, 0.2, count) if len(law.terms) > 1 else rng.normal(0, 0.3, count)
                columns.append(middle + spread)
            elif name in ("R_D", "R_N"):
                columns.append(rng.uniform(np.log(1), np.log(50), count))
            else:
                columns.append(np.exp(rng.uniform(np.log(0.05), np.log(1.2), count)))
        found = np.stack(columns, -1)
        return np.clip(found, self.lower, self.upper)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = np.full(self.size, -60.0), np.full(self.size, 60.0)
        for i, name in enumerate(self.law.names):
            if name == "E":  # between almost nothing and the lowest loss
                lower[i], upper[i] = self.target.min() - np.log(1000), self.target.min()
            elif name == "":  # an exponent that is 1 by the law's form
                lower[i] = upper[i] = 1.0
            elif name in ("R_D", "R_N"):
                lower[i], upper[i] = REPEATS
            elif name not in self.law.coefficients:
                lower[i], upper[i] = EXPONENTS
        return lower, upper


def predict_log(law: Law, runs: RunTable, theta: np.ndarray) -> np.ndarray:
    """ln prediction [..., n] of constants [..., p] for the rows of a table (no target needed)."""
    flat = np.atleast_2d(theta)
    if law.repeated:
        value, _ = _repeated(law, runs, flat)
    else:
        value, _ = _linear(law, _design(law, runs), flat)
    return value.reshape(*np.shape(theta)[:-1], -1)


def _design(law: Law, runs: RunTable) -> np.ndarray:
    """[n, K, p]: what each constant is multiplied by in each term."""
    columns = {name: np.log(np.asarray(runs[name], float)) for name in law.columns}
    if "M" in {c for _, parts in law.terms for signs in parts.values() for c in signs}:
        columns["M"] = columns["D"] - columns["N"]
    rows = len(next(iter(columns.values())))
    found = np.zeros((rows, len(law.terms), len(law.names)))
    for k, (coefficient, parts) in enumerate(law.terms):
        found[:, k, law.names.index(coefficient)] = 1
        for exponent, signs in parts.items():
            found[:, k, law.names.index(exponent)] = sum(s * columns[c] for c, s in signs.items())
    return found


def _centring(law: Law, design: np.ndarray) -> np.ndarray:
    """[p, p]: to coefficients that stand for the table's geometric means."""
    change = np.eye(len(law.names))
    for k, (coefficient, parts) in enumerate(law.terms):
        for exponent in parts:
            j = law.names.index(exponent)
            change[law.names.index(coefficient), j] = design[:, k, j].mean()
    return change


def _softmax(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """logsumexp over the last dim and its weights."""
    top = terms.max(-1, keepdims=True)
    powers = np.exp(terms - top)
    total = powers.sum(-1, keepdims=True)
    return (top + np.log(total))[..., 0], powers / total


def _linear(law: Law, design: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, terms, size = design.shape
    flat = phi @ design.reshape(rows * terms, size).T
    value, weights = _softmax(flat.reshape(len(phi), rows, terms))
    slope = np.zeros((len(phi), rows, size))
    for k in range(terms):  # a term touches few constants
        for j in np.flatnonzero(design[:, k].any(0)):
            slope[:, :, j] += weights[:, :, k] * design[:, k, j]
    if law.outer:
        power = phi[:, [law.names.index(law.outer)]]
        slope *= power[..., None]
        slope[:, :, law.names.index(law.outer)] = value
        value = value * power
    return value, slope


def _repeated(law: Law, runs: RunTable, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Muennighoff's effective N' and D' in Chinchilla's form.

    X' = U (1 + R (1 - exp(-(X / U - 1) / R))), with U the unique tokens, or the parameters that are optimal
    for them: N_opt(U_D) on alpha A N^-alpha = beta B D^-beta, and never more than N.
    """
    a, b, e, alpha, beta, log_rd, log_rn = (column[:, None] for column in theta.T)
    n, d = np.log(runs["N"])[None], np.log(runs["D"])[None]
    unique = np.minimum(np.log(runs["D_unique"])[None], d)
    best = (np.log(alpha) + a - np.log(beta) - b + beta * unique) / alpha
    free = best < n  # where U_N is N_opt(U_D)
    log_d, by_rd, _ = _effective(d, unique, log_rd)
    log_n, by_rn, by_un = _effective(n, np.where(free, best, n), log_rn)
    value, (w_a, w_b, w_e) = _three(a - alpha * log_n, b - beta * log_d, e)
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


def _three(*terms: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    value, weights = _softmax(np.stack(np.broadcast_arrays(*terms), -1))
    return value, tuple(np.moveaxis(weights, -1, 0))


def _effective(x: np.ndarray, unique: np.ndarray, log_r: np.ndarray) -> tuple[np.ndarray, ...]:
    """ln X', its derivative by ln R and by ln U. All logs."""
    r = np.exp(log_r)
    repeats = np.exp(np.clip(x - unique, 0, 50)) - 1
    share = np.exp(-repeats / r)
    total = 1 + r * (1 - share)
    by_r = (1 - share) - share * repeats / r
    return unique + np.log(total), r * by_r / total, 1 - (repeats + 1) * share / total
