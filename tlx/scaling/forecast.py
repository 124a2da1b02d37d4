"""predict: from a fit to the run to train: size, tokens, batch, learning rate, loss with interval, cost."""

from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.scaling.backtesting import drift_warning
from tlx.scaling.evaluation import predict_log
from tlx.scaling.fits import Fit
from tlx.scaling.laws import get_law
from tlx.scaling.prediction import predict_loss
from tlx.scaling.rate_laws import RATE_LAWS, load_rate_law

PF_DAY = 8.64e19  # FLOPs

# Hoffmann et al. 2203.15556, approach 3, with the unrounded constants of the paper's source.
HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.6934, "alpha": 0.3392, "beta": 0.2849}

# Muennighoff et al. 2305.16264: decay of the value of repeated tokens and of excess parameters.
MUENNIGHOFF = {"R_D": 15.387756, "R_N": 5.309743}


# No published law of learning rates was fitted on rates above this one.
_MAX_RATE = 1e-2


def kaplan_answer(flops: float) -> dict[str, float]:
    """Return Kaplan et al.'s N and D for a budget (2001.08361): N = 1.3e9 C^.73, C in PF-days; D = C / 6N."""
    n = 1.3e9 * (flops / PF_DAY) ** 0.73
    return {"N": n, "D": flops / (6 * n)}


def chinchilla_answer(flops: float) -> dict[str, float]:
    """Return Hoffmann et al.'s N and D for a budget (2203.15556, approach 3).

    N = G (C / 6)^(beta / (alpha + beta)), G = (alpha A / beta B)^(1 / (alpha + beta)).
    """
    h = HOFFMANN
    total = h["alpha"] + h["beta"]
    g = (h["alpha"] * h["A"] / (h["beta"] * h["B"])) ** (1 / total)
    n = g * (flops / 6) ** (h["beta"] / total)
    return {"N": n, "D": flops / (6 * n)}


def predict(
    fit: Fit,
    flops: float | None = None,
    *,
    N: float | None = None,
    D: float | None = None,
    D_unique: float | None = None,
    inference_tokens: float = 0.0,
    interval: float = 0.95,
    rate_law: str = "steplaw",
) -> dict[str, Any]:
    """Name the run that a budget should buy, or forecast the run of given N and D.

    Args:
        fit: An identified fit.
        flops: The budget in FLOPs, inference included; not needed where N and D are given.
        N: Parameters of the run.
        D: Training tokens of the run.
        D_unique: Tokens of text that exist; a law without repetition then takes Muennighoff's two constants.
        inference_tokens: Tokens that the model will read and write in its life, paid from the budget at 2 N
            each.
        interval: Probability of the intervals.
        rate_law: Law of learning rate and batch: a published one of RATE_LAWS, or the JSON file of hparams.

    Returns:
        flops, N, D, tokens_per_param, batch_tokens, learning_rate, rate_law, kaplan, chinchilla (their N and
        D for the budget); where they apply D_unique, epochs, loss, interval, octaves_beyond, drift (signed),
        drift_probability, note and warning (about the drift), flat (ranges of N within 0.1% and 0.5% of the
        best loss), N_interval, D_interval (both not where N and D are given).

    Raises:
        ConfigError: An argument is missing or not legal, or the budget does not pay for the inference.
        DataError: The fit is not identified, or does not determine the forecast of this budget (Fit.unsettled).
    """
    fit.check()
    if not 0 <= inference_tokens < float("inf"):
        raise ConfigError(f"inference_tokens = {inference_tokens} must be 0 or more, and finite")
    rates_of = load_rate_law(rate_law)
    flat = None
    if N is not None and D is not None:
        budget = fit.flops_per_token(N) * D + 2 * N * inference_tokens
        n = N
        d = D
    elif flops is None:
        raise ConfigError("predict needs flops, or N and D")
    elif not set(get_law(fit.law).columns) <= {"N", "D", "flops", "D_unique"}:
        columns = ", ".join(get_law(fit.law).columns)
        raise ConfigError(f"law {fit.law!r} has no optimum; predict_loss takes its columns: {columns}")
    elif get_law(fit.law).allocation is None:
        raise ConfigError(
            f"law {fit.law!r} has no optimum of N and D for a budget; predict the loss of N and D"
        )
    else:
        budget = flops
        if fit.approach == 3:
            _require_settled(fit, budget)
            n, d, flat = _search(fit, budget, D_unique, inference_tokens)
        else:
            best = fit.optimal(budget)
            n = best.N
            d = best.D
    rates = rates_of(n, d, budget)
    answer: dict[str, Any] = {"flops": budget, "N": n, "D": d, "tokens_per_param": d / n}
    if D_unique is not None:
        answer["D_unique"] = D_unique
        answer["epochs"] = d / D_unique
    answer["batch_tokens"] = rates.batch_tokens
    # A fitted law is of this user's own optimizer, whose rates may be higher.
    answer["learning_rate"] = min(rates.lr, _MAX_RATE) if rate_law in RATE_LAWS else rates.lr
    answer["rate_law"] = rate_law
    if fit.approach == 3:
        answer |= _loss_of(fit, n, d, D_unique, interval)
    if flat is not None:
        answer["flat"] = flat
    # Of the budget's optimum: a run of given N and D has no uncertain sizes.
    if N is None and fit.draws is not None and fit.exponents is not None and D_unique is None:
        answer |= _size_intervals(fit, budget, interval)
    answer["kaplan"] = kaplan_answer(budget)
    answer["chinchilla"] = chinchilla_answer(budget)
    return answer


def _require_settled(fit: Fit, budget: float) -> None:
    """Raise DataError where the constants do not determine the forecast of a budget."""
    why = fit.unsettled(budget)
    if why:
        raise DataError(f"law {fit.law}: not identified: {why}")


def accelerator_hours(fit: Fit, N: float, D: float, accelerator_flops: float) -> float:
    """Return the hours that training takes on one accelerator.

    Args:
        fit: The fit, for how it counts training FLOPs.
        N: Parameters.
        D: Training tokens.
        accelerator_flops: FLOP/s that the accelerator really achieves.

    Returns:
        Hours.
    """
    return fit.flops_per_token(N) * D / accelerator_flops / 3600


class _Search(NamedTuple):
    """The best size on a grid."""

    N: float
    D: float
    flat: dict[str, tuple[float, float]]  # range of N within a share of the best loss, by that share as text


def _search(fit: Fit, flops: float, unique: float | None, inference: float) -> _Search:
    """Best N and D on a fine grid of sizes, three decades around the closed-form optimum."""
    start = fit.optimal(flops).N if fit.exponents is not None else (flops / 120) ** 0.5
    n = start * np.exp(np.linspace(np.log(1e-3), np.log(1e3), 6001))
    training = flops - 2 * n * inference
    n = n[training > 0]
    training = training[training > 0]
    if not len(n):
        raise ConfigError(f"flops = {flops:.3g} do not pay for {inference:.3g} tokens of inference")
    d = training / fit.flops_per_token(n)
    loss = _losses(fit, n, d, unique)
    if not np.isfinite(loss).all():
        raise DataError(f"the optimum of the fit for {flops:.3g} FLOPs is out of the range of numbers")
    i = int(np.argmin(loss))
    flat = {}
    for share in (0.001, 0.005):
        inside = n[loss <= loss[i] * (1 + share)]
        flat[f"{share:.1%}"] = (float(inside[0]), float(inside[-1]))
    return _Search(float(n[i]), float(d[i]), flat)


def _losses(fit: Fit, n: np.ndarray, d: np.ndarray, unique: float | None) -> np.ndarray:
    """Losses [i] of runs of N and D, with repetition where the text is limited."""
    law = get_law(fit.law)
    theta = fit.constants()
    rows = {"N": n, "D": d, "flops": fit.flops_per_token(n) * d}
    if unique is not None and law.with_repetition:
        law = get_law(law.with_repetition)
        theta = np.concatenate([theta, np.log([MUENNIGHOFF["R_D"], MUENNIGHOFF["R_N"]])])
    if law.repeated:
        rows["D_unique"] = np.minimum(d, np.inf if unique is None else unique)
    return np.exp(predict_log(law, rows, theta))


def _loss_of(fit: Fit, n: float, d: float, unique: float | None, interval: float) -> dict[str, Any]:
    """Loss with its interval; the cost of repetition, where the law has none, moves both ends."""
    columns = {}
    if get_law(fit.law).repeated:
        columns["D_unique"] = min(d, unique or d)
    prediction = predict_loss(fit, N=n, D=d, interval=interval, **columns)
    shift = 1.0
    if unique is not None and not columns:
        shift = float(_losses(fit, np.array([n]), np.array([d]), unique)[0] / prediction.loss)
    return {
        "loss": prediction.loss * shift,
        "interval": (prediction.low * shift, prediction.high * shift),
        "octaves_beyond": prediction.octaves,
        "drift": prediction.drift,
        "drift_probability": prediction.drift_probability,
        "note": prediction.note,
        "warning": drift_warning(fit) if prediction.octaves > 0 else "",
    }


def _size_intervals(fit: Fit, flops: float, interval: float) -> dict[str, tuple[float, float]]:
    """Quantiles of N* and D* over the bootstrap."""
    n, d = fit.optimal_draws(flops)
    ends = [(1 - interval) / 2, (1 + interval) / 2]
    n_low, n_high = np.quantile(n, ends)
    d_low, d_high = np.quantile(d, ends)
    return {
        "N_interval": (float(n_low), float(n_high)),
        "D_interval": (float(d_low), float(d_high)),
    }
