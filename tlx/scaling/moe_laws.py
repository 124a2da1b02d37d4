"""Laws of mixtures of experts: active and total parameters, and granularity.

moe reads N (all parameters), N_active (those that a token meets) and D. With the active fraction
1 - S = N_active / N:

    L = E + A N^-alpha + B D^-beta + C (1 - S)^-lambda + F (1 - S)^-delta N^-gamma

(Abnar et al. 2501.12370).

moe_granularity reads N, D and G, the factor by which experts are narrower than the dense feed-forward, at one
expansion of the number of experts:

    L = E + (A + F G^-gamma) N^-alpha + B D^-beta

(Krajewski et al. 2402.07871). Training FLOPs of both grow with the active parameters: a table without the
column flops is counted as 6 N_active D.
"""

from tlx.scaling.law_form import Law, Term

_DATA_TERM: Term = ("B", {"beta": {"D": -1}})

MOE_LAWS = (
    Law(
        name="moe",
        terms=(
            ("A", {"alpha": {"N": -1}}),
            _DATA_TERM,
            ("C", {"lambda": {"N": 1, "N_active": -1}}),
            ("F", {"delta": {"N": 1, "N_active": -1}, "gamma": {"N": -1}}),
            ("E", {}),
        ),
        columns=("N", "N_active", "D"),
        one_epoch=True,
        source="Abnar et al. 2501.12370",
    ),
    Law(
        name="moe_granularity",
        terms=(
            ("A", {"alpha": {"N": -1}}),
            _DATA_TERM,
            ("F", {"gamma": {"G": -1}, "alpha": {"N": -1}}),
            ("E", {}),
        ),
        columns=("N", "D", "G"),
        one_epoch=True,
        source="Krajewski et al. 2402.07871",
    ),
)
