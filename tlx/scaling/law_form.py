"""The form of a scaling law: terms that are powers in log space, or a surface with a gradient of its own.

ln loss = logsumexp of terms, each linear in the constants: ln A - alpha ln N, ln B - beta ln D, ln E.
evaluation.py computes predictions and gradients of any law. Arrays: S vectors of constants, n rows, p constants.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError
from tlx.scaling.runs import RunTable

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
class Surface:
    """Predictions of a law that is no sum of power terms."""

    evaluate: Callable[[RunTable, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """(ln prediction [S, n], gradient [S, n, p]) of a table and constants [S, p] in the order of Law.names."""

    scales: Mapping[str, tuple[float, float]]
    """Positive constants after the exponents, and the range that starts are drawn from."""

    bounds: tuple[float, float] = (np.log(1e-2), np.log(1e4))
    """Ends between which the logarithms of the scales lie; one of them says that the data do not determine it."""


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

    surface: Surface | None = None
    """Predictions of a law that is no sum of its terms; the terms are then those near which it is centred."""

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
        """Order of the vector: logs of coefficients, exponents, the outer exponent, logs of the surface's scales."""
        outer = (self.outer,) if self.outer else ()
        return self.coefficients + self.exponents + outer + self.scales

    @property
    def logs(self) -> tuple[str, ...]:
        """Constants whose logarithm stands in the vector."""
        return self.coefficients + self.scales

    @property
    def is_surface_of_n_and_d(self) -> bool:
        """Whether N, D and flops are all that a prediction reads."""
        return set(self.columns) <= {"N", "D", "flops"}

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the surface's scales; none where the law is the sum of its terms."""
        return () if self.surface is None else tuple(self.surface.scales)

    @property
    def repeated(self) -> bool:
        """Whether the law describes data that is seen more than once."""
        return "D_unique" in self.columns

    @property
    def size(self) -> str:
        """The column of parameters that training FLOPs grow with: those that a token meets."""
        return "N_active" if "N_active" in self.columns else "N"

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


def logsumexp(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logsumexp over the last dim of terms [..., K], and the softmax weights [..., K]."""
    # The largest term is taken out, so that no exponential overflows.
    top = terms.max(-1, keepdims=True)
    powers = np.exp(terms - top)
    total = powers.sum(-1, keepdims=True)
    return (top + np.log(total))[..., 0], powers / total
