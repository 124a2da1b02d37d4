"""Loss by size, tokens, batch and steps: tokens of batches beyond the critical one are worth less.

A loss that needs D_min tokens with small batches needs D = D_min (1 + batch / B_crit) with batches of `batch`
tokens, in S = D / batch = S_min (1 + B_crit / batch) steps (McCandlish et al. 1812.06162, equation 2.7; Kaplan et al.
2001.08361, equations 5.1 to 5.5). With Hoffmann's terms:

    L = E + A N^-alpha + B (D / (1 + batch / B_crit))^-beta

B_crit is one constant, in tokens; Kaplan et al. let it grow as the loss falls. Arrays: S vectors of constants, n rows
of the table, p constants.
"""

import numpy as np
from scipy import special

from tlx.scaling.law_form import Law, Surface, logsumexp
from tlx.scaling.runs import RunTable


def _evaluate(runs: RunTable, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ln loss [S, n] and its gradient [S, n, p], for constants in the order of Law.names."""
    a, b, e, alpha, beta, log_critical = (column[:, None] for column in theta.T)
    n = np.log(runs["N"])[None]
    excess = np.log(runs["batch"])[None] - log_critical
    d = np.log(runs["D"])[None] - np.logaddexp(0, excess)
    terms = np.broadcast_arrays(a - alpha * n, b - beta * d, e)
    value, weights = logsumexp(np.stack(terms, -1))
    w_a, w_b, w_e = np.moveaxis(weights, -1, 0)
    by_critical = -w_b * beta * special.expit(excess)
    return value, np.stack([w_a, w_b, w_e, -w_a * n, -w_b * d, by_critical], -1)


BATCH = Law(
    name="batch",
    terms=(("A", {"alpha": {"N": -1}}), ("B", {"beta": {"D": -1}}), ("E", {})),
    columns=("N", "D", "batch"),
    surface=Surface(_evaluate, {"B_crit": (1e3, 1e7)}, bounds=(0.0, np.log(1e10))),
    one_epoch=True,
    source="McCandlish et al. 1812.06162, Kaplan et al. 2001.08361",
)
