"""Scaling laws as sums of power terms in log space, and the division of a budget that each calls optimal.

ln loss = logsumexp of terms, each linear in the constants: ln A - alpha ln N, ln B - beta ln D, ln E. A new
law is one entry of LAWS: its terms, the columns that it reads, and, where it has one, its optimum.
evaluation.py computes predictions and gradients of any of them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, one_of

# Constants by name, as they are published; each a number or an array [...] over bootstrap draws.
Constants = Mapping[str, Any]

# Coefficient of a term, and its exponents: {exponent: {column: sign}}.
Term = tuple[str, Mapping[str, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class Allocation:
    """The compute-optimal division of a budget between parameters and tokens, where flops = k N^s D."""

    size: Callable[[Constants, Any, float, float], Any]
    """N* of (constants, flops, k, s)."""

    exponent: Callable[[Constants, float], Any]
    """a in N* ~ C^a, of (constants, s)."""


@dataclasses.dataclass(frozen=True)
class Law:
    """A scaling law: its form, the columns that it reads, and how it divides a budget."""

    name: str
    """Name of the law, as --law takes it."""

    terms: tuple[Term, ...]
    """(coefficient, {exponent: {column: sign}}) of each term; the exponent "" is fixed at 1."""

    columns: tuple[str, ...]
    """Columns of the table that a prediction reads."""

    target: str = "loss"
    """The column that is predicted."""

    outer: str = ""
    """Name of an exponent on the whole sum (beta in Kaplan's L(N, D)); empty for none."""

    repeated: bool = False
    """Whether N and D are the effective ones of Muennighoff et al., for data seen more than once."""

    allocation: Allocation | None = None
    """Optimal N and D of a budget; None for a law without an optimum."""

    one_epoch: bool = False
    """Whether the law describes only runs that see each token once; tables with D > D_unique are refused."""

    isoflop: bool = False
    """Whether the constants can also be read off iso-FLOP minima and envelopes (approaches 1 and 2)."""

    with_repetition: str = ""
    """Name of the law with the same constants, followed by R_D and R_N, for repeated data; empty for none."""

    source: str = ""
    """Citation."""

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the terms' coefficients."""
        return tuple(name for name, _ in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the terms' exponents, each once."""
        return tuple(dict.fromkeys(name for _, parts in self.terms for name in parts))

    @property
    def names(self) -> tuple[str, ...]:
        """Order of the vector: logs of coefficients, exponents, the outer exponent, logs of R_D and R_N."""
        outer = (self.outer,) if self.outer else ()
        return self.coefficients + self.exponents + outer + self._repeat_constants

    @property
    def logs(self) -> tuple[str, ...]:
        """Constants whose logarithm stands in the vector."""
        return self.coefficients + self._repeat_constants

    @property
    def is_surface_of_n_and_d(self) -> bool:
        """Whether N, D and flops are all that a prediction reads."""
        return set(self.columns) <= {"N", "D", "flops"}

    @property
    def _repeat_constants(self) -> tuple[str, ...]:
        return ("R_D", "R_N") if self.repeated else ()

    def params(self, theta: np.ndarray) -> dict[str, Any]:
        """Return the constants as they are published, from the vector [p] (or from vectors [..., p])."""
        values = dict(zip(self.names, np.moveaxis(np.asarray(theta, float), -1, 0), strict=True))
        for name in self.logs:
            values[name] = np.exp(values[name])
        values.pop("", None)
        return values

    def theta(self, params: Mapping[str, float]) -> np.ndarray:
        """Return the vector [p] of published constants."""
        values = {"": 1.0, **params}
        vector = [np.log(values[name]) if name in self.logs else values[name] for name in self.names]
        return np.array(vector, float)

    def optimal_sizes(self, theta: np.ndarray, flops: Any, flops_per: tuple[float, float]) -> tuple[Any, Any]:
        """Return the compute-optimal sizes of a budget.

        Args:
            theta: Constants [p], or [..., p] for many bootstrap draws.
            flops: Training FLOPs, a number or an array that broadcasts against theta's leading dims.
            flops_per: (k, s) of flops = k N^s D.

        Returns:
            (N*, D*): parameters and tokens.

        Raises:
            ConfigError: The law has no optimum.
        """
        if self.allocation is None:
            raise ConfigError(f"law {self.name!r} has no optimum of N and D for a budget")
        k, s = flops_per
        n = self.allocation.size(self.params(theta), flops, k, s)
        return n, flops / (k * n**s)

    def optimal_exponents(self, theta: np.ndarray, flops_per: tuple[float, float]) -> tuple[Any, Any] | None:
        """Return (a, b) of N* ~ C^a and D* ~ C^b for constants [..., p]; None without an optimum."""
        if self.allocation is None:
            return None
        s = flops_per[1]
        a = self.allocation.exponent(self.params(theta), s)
        return a, 1 - s * a


def _chinchilla_size(constants: Constants, flops: Any, k: float, s: float) -> Any:
    """N* where alpha A N^-alpha = s beta B D^-beta (Hoffmann et al. 2203.15556, equation 4, with s = 1)."""
    q = constants
    ratio = q["alpha"] * q["A"] / (s * q["beta"] * q["B"])
    return (ratio * (flops / k) ** q["beta"]) ** (1 / (q["alpha"] + s * q["beta"]))


def _chinchilla_exponent(constants: Constants, s: float) -> Any:
    return constants["beta"] / (constants["alpha"] + s * constants["beta"])


def _overtrain_size(constants: Constants, flops: Any, k: float, s: float) -> Any:
    """N* at the optimal tokens per parameter, M* = (b / a)^(1 / 2 eta) (Gadre et al. 2403.08540)."""
    tokens_per_param = (constants["b"] / constants["a"]) ** (1 / (2 * constants["eta"]))
    return (flops / (k * tokens_per_param)) ** (1 / (s + 1))


def _overtrain_exponent(constants: Constants, s: float) -> Any:
    return np.full(np.shape(constants["eta"]), 1 / (1 + s))


def _kaplan_size(constants: Constants, flops: Any, k: float, s: float) -> Any:
    """N* where the sum A N^-p + D_c / D is least at flops = k N^s D."""
    p = constants["p"]
    return (p * constants["A"] * (flops / k) / (s * constants["D_c"])) ** (1 / (s + p))


def _kaplan_exponent(constants: Constants, s: float) -> Any:
    return 1 / (s + constants["p"])


_CHINCHILLA_TERMS: tuple[Term, ...] = (("A", {"alpha": {"N": -1}}), ("B", {"beta": {"D": -1}}), ("E", {}))
_CHINCHILLA_ALLOCATION = Allocation(_chinchilla_size, _chinchilla_exponent)
_TOWER_TERM: Term = ("A", {"p_enc": {"N_enc": -1}, "p_dec": {"N_dec": -1}})

_ALL_LAWS = (
    Law(
        name="chinchilla",
        terms=_CHINCHILLA_TERMS,
        columns=("N", "D"),
        allocation=_CHINCHILLA_ALLOCATION,
        one_epoch=True,
        isoflop=True,
        with_repetition="repeat",
        source="Hoffmann et al. 2203.15556",
    ),
    Law(
        name="kaplan_n",
        terms=(("A", {"alpha": {"N": -1}}),),
        columns=("N",),
        source="Kaplan et al. 2001.08361",
    ),
    Law(
        name="kaplan_d",
        terms=(("B", {"beta": {"D": -1}}),),
        columns=("D",),
        source="Kaplan et al. 2001.08361",
    ),
    Law(
        name="kaplan_c",
        terms=(("K", {"gamma": {"flops": -1}}),),
        columns=("flops",),
        source="Kaplan et al. 2001.08361",
    ),
    # ln L = beta logsumexp(ln A - p ln N, ln D_c - ln D), p = alpha_N / alpha_D
    Law(
        name="kaplan",
        terms=(("A", {"p": {"N": -1}}), ("D_c", {"": {"D": -1}})),
        columns=("N", "D"),
        outer="beta",
        allocation=Allocation(_kaplan_size, _kaplan_exponent),
        one_epoch=True,
        source="Kaplan et al. 2001.08361",
    ),
    # M is tokens per parameter: see evaluation.design_matrix
    Law(
        name="overtrain",
        terms=(
            ("a", {"eta": {"M": 1, "flops": -1}}),
            ("b", {"eta": {"M": -1, "flops": -1}}),
            ("E", {}),
        ),
        columns=("N", "D", "flops"),
        allocation=Allocation(_overtrain_size, _overtrain_exponent),
        one_epoch=True,
        source="Gadre et al. 2403.08540",
    ),
    Law(
        name="repeat",
        terms=_CHINCHILLA_TERMS,
        columns=("N", "D", "D_unique"),
        repeated=True,
        allocation=_CHINCHILLA_ALLOCATION,
        source="Muennighoff et al. 2305.16264",
    ),
    Law(
        name="encdec",
        terms=(_TOWER_TERM, ("E", {})),
        columns=("N_enc", "N_dec"),
        source="Ghorbani et al. 2109.07740",
    ),
    Law(
        name="encdec_data",
        terms=(_TOWER_TERM, ("B", {"beta": {"D": -1}}), ("E", {})),
        columns=("N_enc", "N_dec", "D"),
        source="Ghorbani et al. 2109.07740, with a term for the data",
    ),
    Law(
        name="transfer",
        terms=(("k", {"a": {"D_F": 1}, "b": {"N": 1}}),),
        columns=("D_F", "N"),
        target="D_T",
        source="Hernandez et al. 2102.01293",
    ),
)

LAWS = {law.name: law for law in _ALL_LAWS}


def get_law(name: str) -> Law:
    """Return the law called `name`. Raises ConfigError with the choices."""
    if name not in LAWS:
        raise ConfigError(one_of("law", name, LAWS))
    return LAWS[name]
