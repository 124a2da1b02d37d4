"""downstream: from loss to a task's metric, judged on the models left out of the fit."""

from typing import Any

import numpy as np
from scipy.optimize import least_squares

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.scaling.fits import fit
from tlx.scaling.laws import get_law, predict_log
from tlx.scaling.runs import RunTable, load_runs, rows_of

FORMS = ("exponential", "sigmoid")


def downstream(
    runs: Any,
    metric: str,
    *,
    form: str = "sigmoid",
    held_out: Any = None,
    fit_rows: Any = None,
    law: str = "chinchilla",
    loss: str = "huber:1e-3",
    steps: int = 2,
) -> dict[str, Any]:
    """metric from loss: sigmoid floor + (top - floor) / (1 + exp(k (L - L0))), or Gadre's exponential
    err = eps - k exp(-gamma L).

    held_out: mask or indices of models to predict; the fifth with the most compute by default. fit_rows:
    the rows of the loss law; all others by default. steps: 2 predicts the loss by `law` and the metric from
    it; 1 takes the metric straight from N and D by the law's form in the place of the loss (err must fall).
    Errors are |predicted / measured - 1| of the models left out: of their loss, of their metric from the
    predicted loss, and from the measured one.
    """
    if form not in FORMS:
        raise ConfigError(one_of("form", form, FORMS))
    table = runs if isinstance(runs, dict) else load_runs(runs)
    if metric not in table:
        raise DataError(f"the table has no column {metric!r}; it has {', '.join(table)}")
    held = _held(table, held_out)
    rest = rows_of(table, ~held)
    test = rows_of(table, held)
    law_rows = rest if fit_rows is None else rows_of(table, _mask(fit_rows, len(held)))
    if steps == 1:
        return _one_step(law_rows, test, metric, law, loss)
    surface = fit(law_rows, law, 3, loss, boot=0)
    params, function = _curve(rest["loss"], rest[metric], form)
    found = {"form": form, "params": params, "status": surface.status}
    if not surface.ok:
        return found
    predicted = np.exp(predict_log(get_law(law), test, surface.theta))
    found["loss_error"] = _errors(predicted, test["loss"])
    found["metric_error"] = _errors(function(predicted), test[metric])
    found["metric_error_from_measured_loss"] = _errors(function(test["loss"]), test[metric])
    return found | {"predicted": function(predicted).tolist(), "measured": test[metric].tolist()}


def _one_step(rows: RunTable, test: RunTable, metric: str, law: str, loss: str) -> dict[str, Any]:
    surface = fit(rows | {"loss": rows[metric]}, law, 3, loss, boot=0)
    found: dict[str, Any] = {"form": f"{law} of N and D", "status": surface.status, "params": surface.params}
    if surface.ok:
        predicted = np.exp(predict_log(get_law(law), test, surface.theta))
        found["metric_error"] = _errors(predicted, test[metric])
    return found


def _curve(x: np.ndarray, y: np.ndarray, form: str) -> tuple[dict[str, float], Any]:
    """Least squares from many starts. Raises DataError for fewer models than constants."""
    names = ("eps", "k", "gamma") if form == "exponential" else ("floor", "top", "k", "L0")
    if len(np.unique(x)) < len(names):
        raise DataError(f"{len(np.unique(x))} models for the {len(names)} constants of a {form}")

    def function(constants: np.ndarray, at: np.ndarray) -> np.ndarray:
        if form == "exponential":
            eps, k, gamma = constants
            return eps - k * np.exp(-gamma * at)
        floor, top, k, middle = constants
        return floor + (top - floor) / (1 + np.exp(np.clip(k * (at - middle), -500, 500)))

    rng, best = np.random.default_rng(0), None
    for _ in range(40):
        if form == "exponential":
            start = [y.max() + rng.uniform(0, 0.3), rng.uniform(0.3, 5), rng.uniform(0.2, 2)]
        else:
            start = [
                y.min(),
                y.max(),
                rng.choice([-1, 1]) * rng.uniform(0.5, 8),
                rng.uniform(x.min(), x.max()),
            ]
        found = least_squares(lambda c: function(c, x) - y, start, xtol=1e-14, ftol=1e-14, max_nfev=4000)
        if best is None or found.cost < best.cost:
            best = found
    return dict(zip(names, map(float, best.x), strict=True)), lambda at: function(best.x, at)


def _held(table: RunTable, held_out: Any) -> np.ndarray:
    count = len(table["loss"])
    if held_out is not None:
        return _mask(held_out, count)
    compute = table.get("flops", table["N"] * table["D"])
    held = np.zeros(count, bool)
    held[np.argsort(compute)[-max(1, count // 5) :]] = True
    return held


def _mask(rows: Any, count: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.dtype == bool:
        return rows
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask


def _errors(predicted: np.ndarray, measured: np.ndarray) -> list[float]:
    return [float(e) for e in np.abs(predicted / measured - 1)]
