"""All scaling laws by name, and the division of a budget that each calls optimal.

A new law is one entry of LAWS: its terms, the columns that it reads, and, where it has one, its optimum. Families
of laws, and laws that are no sum of power terms, stand in files of their own.
"""

from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.scaling.batch_law import BATCH
from tlx.scaling.law_form import Allocation, Constants, Law, Term
from tlx.scaling.moe_laws import MOE_LAWS
from tlx.scaling.precision_laws import PRECISION_LAWS
from tlx.scaling.repetition_law import REPETITION


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
        surface=REPETITION,
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

LAWS = {law.name: law for law in (*_ALL_LAWS, BATCH, *MOE_LAWS, *PRECISION_LAWS)}


def get_law(name: str) -> Law:
    """Return the law called `name`. Raises ConfigError with the choices."""
    if name not in LAWS:
        raise ConfigError(one_of("law", name, LAWS))
    return LAWS[name]
