"""Laws of numerical precision: fewer bits in training are fewer effective parameters, and fewer bits after it a loss.

Training (Kumar et al. 2411.04330): Chinchilla's form with the effective parameters

    N_eff = N (1 - exp(-P_w / gamma_w)) (1 - exp(-P_a / gamma_a)) (1 - exp(-P_kv / gamma_kv)),

where P_w, P_a and P_kv are the bits of weights, activations and the attention's keys and values. precision reads all
three, precision_weights P_w alone, for tables in which the other two do not vary.

quantization is of the loss that rounding a trained model to P_post bits adds (column delta_loss):

    delta = C_T D^gamma_D N^-gamma_N exp(-P_post / gamma_post).

Arrays: S vectors of constants, n rows of the table, p constants.
"""

import numpy as np

from tlx.scaling.law_form import Law, Surface, Term, logsumexp
from tlx.scaling.runs import RunTable

# Scale of each column of bits, in bits.
_SCALES = {"P_w": "gamma_w", "P_a": "gamma_a", "P_kv": "gamma_kv"}

_TERMS: tuple[Term, ...] = (("A", {"alpha": {"N": -1}}), ("B", {"beta": {"D": -1}}), ("E", {}))
_STARTS = (0.5, 8.0)


def _surface(columns: tuple[str, ...]) -> Surface:
    """The training law with these columns of bits."""

    def evaluate(runs: RunTable, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, e, alpha, beta = (column[:, None] for column in theta[:, :5].T)
        log_d = np.log(runs["D"])[None]
        log_n = np.log(runs["N"])[None]
        by_scale = []
        for j, name in enumerate(columns):
            bits = runs[name][None] / np.exp(theta[:, 5 + j])[:, None]
            log_n = log_n + np.log(-np.expm1(-bits))
            # Gradient of ln(1 - exp(-P / gamma)) by ln gamma; beyond 600 it is zero in float64.
            clipped = np.minimum(bits, 600)
            by_scale.append(-clipped / np.expm1(clipped))
        terms = np.broadcast_arrays(a - alpha * log_n, b - beta * log_d, e)
        value, weights = logsumexp(np.stack(terms, -1))
        w_a, w_b, w_e = np.moveaxis(weights, -1, 0)
        slopes = [w_a, w_b, w_e, -w_a * log_n, -w_b * log_d]
        slopes += [-w_a * alpha * slope for slope in by_scale]
        return value, np.stack(slopes, -1)

    return Surface(evaluate, {_SCALES[name]: _STARTS for name in columns})


def _quantization(runs: RunTable, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ln of the loss that rounding adds, and its gradient."""
    c, by_d, by_n, log_scale = (column[:, None] for column in theta.T)
    log_d = np.log(runs["D"])[None]
    log_n = np.log(runs["N"])[None]
    bits = runs["P_post"][None] / np.exp(log_scale)
    value = c + by_d * log_d - by_n * log_n - bits
    slopes = np.broadcast_arrays(np.ones_like(value), log_d, -log_n, bits)
    return value, np.stack(slopes, -1)


PRECISION_LAWS = (
    Law(
        name="precision",
        terms=_TERMS,
        columns=("N", "D", "P_w", "P_a", "P_kv"),
        surface=_surface(("P_w", "P_a", "P_kv")),
        one_epoch=True,
        source="Kumar et al. 2411.04330",
    ),
    Law(
        name="precision_weights",
        terms=_TERMS,
        columns=("N", "D", "P_w"),
        surface=_surface(("P_w",)),
        one_epoch=True,
        source="Kumar et al. 2411.04330",
    ),
    Law(
        name="quantization",
        terms=(("C_T", {"gamma_D": {"D": 1}, "gamma_N": {"N": -1}}),),
        columns=("N", "D", "P_post"),
        target="delta_loss",
        surface=Surface(_quantization, {"gamma_post": _STARTS}),
        source="Kumar et al. 2411.04330",
    ),
)
