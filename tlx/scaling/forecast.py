"""predict: from a fit to the run to make: size, tokens, batch, learning rate, loss with interval, cost."""

from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.scaling.fits import Fit
from tlx.scaling.laws import get_law, predict_log

PF_DAY = 8.64e19  # FLOP

# Published answers: (N, D) for a budget of 6 N D.
HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.6934, "alpha": 0.3392, "beta": 0.2849}
MUENNIGHOFF = {"R_D": 15.387756, "R_N": 5.309743}

# (learning rate, batch in tokens) of N, D and C.
RATE_LAWS = {
    # StepLaw (2503.04715)
    "steplaw": lambda n, d, c: (1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571),
    # DeepSeek LLM (2401.02954)
    "deepseek": lambda n, d, c: (0.3118 * c**-0.125, 0.2920 * c**0.3271),
}

# No law of learning rates was fitted on rates above this one.
_MOST_RATE = 1e-2


def kaplan_answer(flops: float) -> dict[str, float]:
    """Kaplan et al. 2020: N = 1.3e9 C^.73 (C in PF-days), and tokens = C / 6N."""
    n = 1.3e9 * (flops / PF_DAY) ** 0.73
    return {"N": n, "D": flops / (6 * n)}


def chinchilla_answer(flops: float) -> dict[str, float]:
    """Hoffmann et al. 2022, approach 3 with unrounded constants."""
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
    accelerator_flops: float | None = None,
) -> dict[str, Any]:
    """The run that a budget should buy, or what the run of N and D will reach.

    D_unique: tokens there are; a law without repetition then takes Muennighoff's two constants.
    inference_tokens: tokens the model will read and write in its life, paid from the same budget at 2 N
    each. accelerator_flops: FLOP/s that one accelerator really does, for the cost in hours. Also what
    Kaplan and Chinchilla would say, the flat region of sizes, and the interval, with the drift that a
    backtest found. Raises ConfigError; DataError where the fit is not identified.
    """
    fit.check()
    if rate_law not in RATE_LAWS:
        raise ConfigError(one_of("rate_law", rate_law, RATE_LAWS))
    if flops is None and (N is None or D is None):
        raise ConfigError("predict needs flops, or N and D")
    if N is not None and D is not None:
        flops = _training(fit, N) * D + 2 * N * inference_tokens
        n, d, flat = N, D, None
    elif fit.approach != 3:
        best = fit.optimal(flops)
        n, d, flat = best.N, best.D, None
    else:
        n, d, flat = _search(fit, flops, D_unique, inference_tokens)
    rate, batch = RATE_LAWS[rate_law](n, d, flops)
    found = {"flops": flops, "N": n, "D": d, "tokens_per_param": d / n}
    if D_unique is not None:
        found |= {"D_unique": D_unique, "epochs": d / D_unique}
    found |= {"batch_tokens": batch, "learning_rate": min(rate, _MOST_RATE), "rate_law": rate_law}
    if fit.approach == 3:
        found |= _loss_of(fit, n, d, D_unique, interval)
    if flat is not None:
        found["flat"] = flat
    if fit.draws is not None and fit.exponents is not None and D_unique is None:
        found |= _size_intervals(fit, flops, interval)
    if accelerator_flops:
        found["accelerator_hours"] = _training(fit, n) * d / accelerator_flops / 3600
    return found | {"kaplan": kaplan_answer(flops), "chinchilla": chinchilla_answer(flops)}


def _training(fit: Fit, n: Any) -> Any:
    k, s = fit.flops_per
    return k * n**s


def _search(fit: Fit, flops: float, unique: float | None, inference: float) -> tuple[float, float, dict]:
    """Best N and D on a fine grid of sizes, and the ranges of N within .1% and .5% of its loss."""
    start = fit.optimal(flops).N if fit.exponents is not None else (flops / 120) ** 0.5
    n = start * np.exp(np.linspace(np.log(1e-3), np.log(1e3), 6001))
    left = flops - 2 * n * inference
    n, left = n[left > 0], left[left > 0]
    if not len(n):
        raise ConfigError(f"flops = {flops:.3g} do not pay for {inference:.3g} tokens of inference")
    d = left / _training(fit, n)
    loss = _losses(fit, n, d, unique)
    i = int(np.argmin(loss))
    flat = {}
    for share in (0.001, 0.005):
        inside = n[loss <= loss[i] * (1 + share)]
        flat[f"{share:.1%}"] = (float(inside[0]), float(inside[-1]))
    return float(n[i]), float(d[i]), flat


def _losses(fit: Fit, n: np.ndarray, d: np.ndarray, unique: float | None) -> np.ndarray:
    law, theta = get_law(fit.law), fit.theta
    rows = {"N": n, "D": d, "flops": _training(fit, n) * d}
    if unique is not None and law.name == "chinchilla":
        law = get_law("repeat")
        theta = np.concatenate([theta, np.log([MUENNIGHOFF["R_D"], MUENNIGHOFF["R_N"]])])
    if law.repeated:
        rows["D_unique"] = np.minimum(d, np.inf if unique is None else unique)
    return np.exp(predict_log(law, rows, theta))


def _loss_of(fit: Fit, n: float, d: float, unique: float | None, interval: float) -> dict[str, Any]:
    """Loss with its interval; a repetition's cost, where the law has none, moves both ends."""
    extra = {"D_unique": min(d, unique or d)} if get_law(fit.law).repeated else {}
    found = fit.predict(N=n, D=d, interval=interval, **extra)
    shift = 1.0
    if unique is not None and not extra:
        one, two = _losses(fit, np.array([n]), np.array([d]), unique), found.loss
        shift = float(one[0] / two)
    return {
        "loss": found.loss * shift,
        "interval": (found.low * shift, found.high * shift),
        "octaves_beyond": found.octaves,
        "drift": found.drift,
        "warning": fit.backtest().warning if found.octaves > 0 else "",
    }


def _size_intervals(fit: Fit, flops: float, interval: float) -> dict[str, tuple[float, float]]:
    from tlx.scaling.fits import optimal_sizes

    ends = [(1 - interval) / 2, (1 + interval) / 2]
    if fit.approach == 3:
        n, d = optimal_sizes(get_law(fit.law), fit.draws, flops, fit.flops_per)
    else:
        n, d = (np.exp(fit.draws[:, i] + fit.draws[:, i + 1] * np.log(flops)) for i in (0, 2))
    return {
        "N_interval": tuple(map(float, np.quantile(n, ends))),
        "D_interval": tuple(map(float, np.quantile(d, ends))),
    }
