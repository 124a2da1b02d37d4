"""downstream: from loss to a task's metric, judged on models that are left out of the fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.scaling.evaluation import predict_log
from tlx.scaling.fits import fit
from tlx.scaling.laws import get_law
from tlx.scaling.runs import RunTable, as_table, require, rows_of

# Random starts of the least squares.
_STARTS = 40


def _exponential(constants: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Gadre's form: err = eps - k exp(-gamma L) (2403.08540, equation 5)."""
    eps, k, gamma = constants
    return eps - k * np.exp(-gamma * loss)


def _sigmoid(constants: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Sigmoid: metric = floor + (top - floor) / (1 + exp(k (L - L0)))."""
    floor, top, k, middle = constants
    return floor + (top - floor) / (1 + np.exp(np.clip(k * (loss - middle), -500, 500)))


def _exponential_start(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> list[float]:
    return [y.max() + rng.uniform(0, 0.3), rng.uniform(0.3, 5), rng.uniform(0.2, 2)]


def _sigmoid_start(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> list[float]:
    return [y.min(), y.max(), rng.choice([-1, 1]) * rng.uniform(0.5, 8), rng.uniform(x.min(), x.max())]


# Form: names of its constants, the function of (constants, loss), and a random start.
_CURVES = {
    "exponential": (("eps", "k", "gamma"), _exponential, _exponential_start),
    "sigmoid": (("floor", "top", "k", "L0"), _sigmoid, _sigmoid_start),
}

FORMS = tuple(_CURVES)


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
    """Predict a task's metric of held-out models from their size and tokens.

    Args:
        runs: Table with N, D, loss and the metric, or anything that load_runs takes.
        metric: Column of the metric.
        form: Curve from loss to metric: "sigmoid", floor + (top - floor) / (1 + exp(k (L - L0))), or Gadre's
            "exponential" for errors, eps - k exp(-gamma L).
        held_out: Mask or indices of the models to predict; None for the fifth with the most compute.
        fit_rows: Mask or indices of the rows of the loss law; None for all that are not held out.
        law: Law that predicts the loss.
        loss: Loss of its residuals; see tlx.scaling.solver.parse_loss.
        steps: 2 predicts the loss by `law` and the metric from it. 1 fits the law's form to the metric
            itself, in the place of the loss (the metric must fall with size).

    Returns:
        form, params, status; and errors |predicted / measured - 1| of the held-out models: loss_error,
        metric_error (from the predicted loss), metric_error_from_measured_loss, with predicted and measured.

    Raises:
        ConfigError: `form` is unknown.
        DataError: The table has no such column, or fewer models than the curve has constants.
    """
    if form not in FORMS:
        raise ConfigError(one_of("form", form, FORMS))
    table = as_table(runs)
    require(table, (*get_law(law).columns, "loss"), "downstream")
    if metric not in table:
        raise DataError(f"downstream needs the column {metric!r}; the table has {', '.join(table)}")
    # A metric may be 0 or negative, but each row must have one.
    if table[metric].dtype == object or not np.isfinite(table[metric]).all():
        raise DataError(f"the column {metric!r} must hold a number in every row: take out those without one")
    held = _held(table, held_out)
    fitted = rows_of(table, ~held)
    test = rows_of(table, held)
    law_rows = fitted if fit_rows is None else rows_of(table, _mask(fit_rows, len(held)))
    if steps == 1:
        return _one_step(law_rows, test, metric, law, loss)
    surface = fit(law_rows, law, loss=loss, boot=0)
    params, curve = _fit_curve(fitted["loss"], fitted[metric], form)
    result: dict[str, Any] = {"form": form, "params": params, "status": surface.status}
    if not surface.ok:
        return result
    predicted = np.exp(predict_log(get_law(law), test, surface.constants()))
    result["loss_error"] = _errors(predicted, test["loss"])
    result["metric_error"] = _errors(curve(predicted), test[metric])
    result["metric_error_from_measured_loss"] = _errors(curve(test["loss"]), test[metric])
    result["predicted"] = curve(predicted).tolist()
    result["measured"] = test[metric].tolist()
    return result


def _one_step(rows: RunTable, test: RunTable, metric: str, law: str, loss: str) -> dict[str, Any]:
    """The metric by the law's own form, straight from N and D."""
    surface = fit(rows | {"loss": rows[metric]}, law, loss=loss, boot=0)
    result: dict[str, Any] = {
        "form": f"{law} of N and D",
        "status": surface.status,
        "params": surface.params,
    }
    if surface.ok:
        predicted = np.exp(predict_log(get_law(law), test, surface.constants()))
        result["metric_error"] = _errors(predicted, test[metric])
    return result


def _fit_curve(
    x: np.ndarray, y: np.ndarray, form: str
) -> tuple[dict[str, float], Callable[[np.ndarray], np.ndarray]]:
    """Constants of the curve y(x) by least squares from many starts, and the curve itself."""
    names, function, draw_start = _CURVES[form]
    if len(np.unique(x)) < len(names):
        raise DataError(f"{len(np.unique(x))} models for the {len(names)} constants of a {form}")
    rng = np.random.default_rng(0)
    lowest_cost = np.inf
    constants = np.empty(0)
    for _ in range(_STARTS):
        start = draw_start(x, y, rng)
        solution = least_squares(lambda c: function(c, x) - y, start, xtol=1e-14, ftol=1e-14, max_nfev=4000)
        if not len(constants) or solution.cost < lowest_cost:
            lowest_cost = solution.cost
            constants = solution.x
    params = dict(zip(names, map(float, constants), strict=True))
    return params, lambda loss: function(constants, loss)


def _held(table: RunTable, held_out: Any) -> np.ndarray:
    """Mask of the held-out rows: as given, or the fifth with the most compute."""
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
    return [float(error) for error in np.abs(predicted / measured - 1)]
