"""downstream: from loss to a task's metric, judged on models that are left out of the fit."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.scaling.drift import Outlook
from tlx.scaling.evaluation import predict_log
from tlx.scaling.fits import Fit, fit
from tlx.scaling.laws import get_law
from tlx.scaling.runs import RunTable, as_table, clusters, require, rows_of

# Random starts of the least squares.
_STARTS = 40

# Draws of an interval below which the bootstrap has failed too often to be used.
_FEWEST_DRAWS = 20


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


@dataclasses.dataclass(frozen=True)
class DownstreamSettings:
    """Settings of a prediction of a task's metric."""

    form: str = "sigmoid"
    """Curve from loss to metric: "sigmoid", floor + (top - floor) / (1 + exp(k (L - L0))), or Gadre's "exponential"
    for errors, eps - k exp(-gamma L)."""

    chance: float | None = None
    """Metric of a guess (.25 with four choices), at which a sigmoid is anchored: its floor is held there; None fits
    the floor."""

    best: float | None = None
    """Metric that no model exceeds: a sigmoid's top is held there; None fits the top, at most 1 where all metrics lie
    in 0 to 1."""

    held_out: Any = None
    """Mask or indices of the models to predict; None for the fifth with the most compute."""

    fit_rows: Any = None
    """Mask or indices of the rows of the loss law; None for all that are not held out, of each run the last."""

    law: str = "chinchilla"
    """Law that predicts the loss."""

    loss: str = "huber:1e-3"
    """Loss of its residuals; see tlx.scaling.solver.parse_loss."""

    steps: int = 2
    """2 predicts the loss by `law` and the metric from it. 1 fits the law's form to the metric itself, in the place
    of the loss (to best - metric where `best` is given). 0 compares both by the error of the largest models of the
    fit."""

    items: int = 0
    """Items of the task, whose sampling noise an accuracy has at least; 0 for that of the curve's residuals alone."""

    boot: int = 200
    """Bootstrap draws of the curve (two steps), and a twentieth of the draws of an interval; 0 for no intervals."""

    seed: int = 0
    """Seed of the draws."""


class _Curve(NamedTuple):
    """A fitted curve from loss to metric."""

    names: tuple[str, ...]
    function: Callable[[np.ndarray, np.ndarray], np.ndarray]
    constants: np.ndarray
    noise: float  # standard deviation of the metric around the curve

    def __call__(self, loss: np.ndarray) -> np.ndarray:
        return self.function(self.constants, loss)


def downstream(runs: Any, metric: str, **settings: Any) -> dict[str, Any]:
    """Predict a task's metric of held-out models from their size and tokens.

    Rows of one run (column `run`) are its checkpoints: all of them show how the metric follows from the loss, the
    last of each shows how the loss follows from size and tokens, and a held-out model is held out with all its rows.

    Args:
        runs: Table with N, D, loss and the metric, or anything that load_runs takes.
        metric: Column of the metric.
        **settings: Fields of DownstreamSettings.

    Returns:
        form, params, status; errors |predicted / measured - 1| of the held-out models: loss_error, metric_error (from
        the predicted loss), metric_error_from_measured_loss, with predicted and measured; with boot > 0 interval, the
        95% interval of each held-out metric, and covered, the fraction inside. With steps=0 the answer
        of the chosen way, chosen (1 or 2), inner_errors (of the largest models of the fit, left out), by which it was
        chosen, and both_errors, those of the held-out models.

    Raises:
        ConfigError: A setting is not legal.
        DataError: The table has no such column, or fewer models than the curve has constants.
    """
    chosen = DownstreamSettings(**settings)
    _check(chosen)
    table = as_table(runs)
    require(table, (*get_law(chosen.law).columns, "loss"), "downstream")
    if metric not in table:
        raise DataError(f"downstream needs the column {metric!r}; the table has {', '.join(table)}")
    # A metric may be 0 or negative, but each row must have one.
    if table[metric].dtype == object or not np.isfinite(table[metric]).all():
        raise DataError(f"the column {metric!r} must hold a number in every row: take out those without one")
    held = _held(table, chosen.held_out)
    if held.all():
        raise DataError(
            f"all {len(held)} rows are held out, and none is left for the fit: add runs of smaller models"
        )
    fitted = rows_of(table, ~held)
    test = rows_of(table, held)
    law_rows = _last_of_each_run(fitted)
    if chosen.fit_rows is not None:
        law_rows = rows_of(table, _mask(chosen.fit_rows, len(held)))
    if chosen.steps == 0:
        return _choose_steps(fitted, test, metric, chosen)
    if chosen.steps == 1:
        return _one_step(law_rows, test, metric, chosen)
    return _two_steps(law_rows, fitted, test, metric, chosen)


def _check(settings: DownstreamSettings) -> None:
    if settings.form not in FORMS:
        raise ConfigError(one_of("form", settings.form, FORMS))
    if settings.steps not in (0, 1, 2):
        raise ConfigError(f"steps = {settings.steps} must be 1, 2, or 0 to compare both")
    if settings.items < 0:
        raise ConfigError(f"items = {settings.items} must be 1 or more, or 0 for no sampling noise")
    if settings.form != "sigmoid" and (
        settings.chance is not None or (settings.best is not None and settings.steps == 2)
    ):
        raise ConfigError(f"chance and best anchor a sigmoid, not form = {settings.form!r}")
    if settings.chance is not None and not 0 <= settings.chance < 1:
        raise ConfigError(
            f"chance = {settings.chance} must be a fraction, from 0 to below 1, such as 0.25 of four choices"
        )
    if settings.chance is not None and settings.best is not None and not settings.chance < settings.best:
        raise ConfigError(f"chance = {settings.chance} must be below best = {settings.best}")


def _two_steps(
    law_rows: RunTable, fitted: RunTable, test: RunTable, metric: str, settings: DownstreamSettings
) -> dict[str, Any]:
    """The metric from the loss, and the loss from size and tokens."""
    surface = fit(law_rows, settings.law, loss=settings.loss, boot=0)
    curve = _fit_curve(fitted["loss"], fitted[metric], settings)
    params = dict(zip(curve.names, map(float, curve.constants), strict=True))
    result: dict[str, Any] = {"form": settings.form, "params": params, "status": surface.status}
    if not surface.ok:
        return result
    predicted = np.exp(predict_log(get_law(settings.law), test, surface.constants()))
    result["loss_error"] = _errors(predicted, test["loss"])
    result["metric_error"] = _errors(curve(predicted), test[metric])
    result["metric_error_from_measured_loss"] = _errors(curve(test["loss"]), test[metric])
    result["predicted"] = curve(predicted).tolist()
    result["measured"] = test[metric].tolist()
    if settings.boot:
        result |= _intervals(_two_step_draws(surface, curve, fitted, test, metric, settings), test[metric])
    return result


def _intervals(draws: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """95% interval of each held-out metric from its draws [t, draws], and the fraction of them that hold it."""
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    return {
        "interval": [(float(a), float(b)) for a, b in zip(low, high, strict=True)],
        "covered": float(((low <= measured) & (measured <= high)).mean()),
    }


def _with_noise(
    values: np.ndarray, noise: np.ndarray, settings: DownstreamSettings, rng: np.random.Generator
) -> np.ndarray:
    """Draws of a measured metric: expectations with noise, which is at least that of the task's items."""
    if settings.items:
        share = np.clip(values, 0, 1)
        noise = np.maximum(noise, np.sqrt(share * (1 - share) / settings.items))
    return values + noise * rng.standard_normal(len(values))


def _two_step_draws(
    surface: Fit, curve: _Curve, fitted: RunTable, test: RunTable, metric: str, settings: DownstreamSettings
) -> np.ndarray:
    """Draws [t, draws] of the metric: the loss with its drift, curves of drawn runs, noise of the task."""
    rng = np.random.default_rng(settings.seed)
    groups = clusters(fitted, None)
    count = int(groups.max()) + 1
    curves = []
    for _ in range(settings.boot):
        drawn = np.concatenate([np.flatnonzero(groups == group) for group in rng.integers(0, count, count)])
        loss = fitted["loss"][drawn]
        if len(np.unique(loss)) >= len(curve.names):
            metrics = fitted[metric][drawn]
            curves.append(_least_squares(curve.function, loss, metrics, curve.constants, settings)[1])
    if len(curves) < _FEWEST_DRAWS:
        curves = [curve.constants]
    ahead = Outlook(surface)
    by_row = []
    for row in range(len(test["loss"])):
        loss = np.exp(ahead.sample(rows_of(test, np.array([row])), 20 * settings.boot, settings.seed + row))
        drawn = np.array(curves)[rng.integers(0, len(curves), len(loss))]
        values = curve.function(drawn.T, loss)
        by_row.append(_with_noise(values, np.full(len(values), curve.noise), settings, rng))
    return np.array(by_row)


def _one_step(rows: RunTable, test: RunTable, metric: str, settings: DownstreamSettings) -> dict[str, Any]:
    """The metric by the law's own form, straight from N and D."""
    target = rows[metric] if settings.best is None else settings.best - rows[metric]
    surface = fit(rows | {"loss": target}, settings.law, loss=settings.loss, boot=0)
    result: dict[str, Any] = {
        "form": f"{settings.law} of N and D",
        "status": surface.status,
        "params": surface.params,
    }
    if surface.ok:
        predicted = np.exp(predict_log(get_law(settings.law), test, surface.constants()))
        if settings.best is not None:
            predicted = settings.best - predicted
        if settings.chance is not None:
            predicted = np.maximum(predicted, settings.chance)
        result["metric_error"] = _errors(predicted, test[metric])
        result["predicted"] = predicted.tolist()
        result["measured"] = test[metric].tolist()
        if settings.boot:
            result |= _intervals(_one_step_draws(surface, test, metric, settings), test[metric])
    return result


def _one_step_draws(surface: Fit, test: RunTable, metric: str, settings: DownstreamSettings) -> np.ndarray:
    """Draws [t, draws] of the metric by a law of its own: the law with its drift, noise of runs and task."""
    rng = np.random.default_rng(settings.seed)
    ahead = Outlook(surface)
    by_row = []
    for row in range(len(test[metric])):
        one = rows_of(test, np.array([row]))
        target = np.exp(ahead.sample(one, 20 * settings.boot, settings.seed + row))
        values = target if settings.best is None else settings.best - target
        if settings.chance is not None:
            values = np.maximum(values, settings.chance)
        by_row.append(_with_noise(values, target * ahead.noise, settings, rng))
    return np.array(by_row)


def _choose_steps(
    fitted: RunTable, test: RunTable, metric: str, settings: DownstreamSettings
) -> dict[str, Any]:
    """Both ways, and the answer of the one whose error is less on the largest models within the fit."""
    inner = _held(fitted, None)
    errors: dict[int, float] = {}
    answers: dict[int, dict[str, Any]] = {}
    for steps in (1, 2):
        one = dataclasses.replace(settings, steps=steps)
        outer_rows = _last_of_each_run(fitted)
        inner_fitted = rows_of(fitted, ~inner)
        inner_test = rows_of(fitted, inner)
        inner_rows = _last_of_each_run(inner_fitted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if steps == 1:
                tried = _one_step(inner_rows, inner_test, metric, one)
                answers[steps] = _one_step(outer_rows, test, metric, one)
            else:
                quick = dataclasses.replace(one, boot=0)
                tried = _two_steps(inner_rows, inner_fitted, inner_test, metric, quick)
                answers[steps] = _two_steps(outer_rows, fitted, test, metric, one)
        errors[steps] = float(np.mean(tried["metric_error"])) if "metric_error" in tried else float("inf")
    best = min(errors, key=lambda steps: errors[steps])
    held_out = {steps: answer.get("metric_error") for steps, answer in answers.items()}
    return answers[best] | {"chosen": best, "inner_errors": errors, "both_errors": held_out}


def _fit_curve(x: np.ndarray, y: np.ndarray, settings: DownstreamSettings) -> _Curve:
    """Constants of the curve y(x) by least squares from many starts, within its bounds."""
    names, function, draw_start = _CURVES[settings.form]
    free = _free(settings)
    if len(np.unique(x)) < free.sum():
        raise DataError(f"{len(np.unique(x))} models for the {free.sum()} constants of a {settings.form}")
    rng = np.random.default_rng(0)
    lowest_cost = np.inf
    constants = np.empty(0)
    for _ in range(_STARTS):
        cost, solution = _least_squares(function, x, y, np.array(draw_start(x, y, rng)), settings)
        if cost < lowest_cost:
            lowest_cost = cost
            constants = solution
    if settings.form == "sigmoid" and constants[2] < 0 and free.all():
        # The same curve from the other side: its floor is then that of high losses.
        constants = constants[[1, 0, 2, 3]] * np.array([1, 1, -1, 1])
    noise = np.sqrt(2 * lowest_cost / max(1, len(x) - int(free.sum())))
    return _Curve(names, function, constants, float(noise))


def _least_squares(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
    settings: DownstreamSettings,
) -> tuple[float, np.ndarray]:
    """(cost, constants) of a curve from a start; what is anchored is held."""
    constants = start.astype(float)
    low = np.full(len(start), -np.inf)
    high = np.full(len(start), np.inf)
    if settings.form == "sigmoid":
        # Accuracies and other fractions have no asymptote outside 0 to 1.
        if 0 <= y.min() and y.max() <= 1:
            low[:2] = 0.0
            high[:2] = 1.0
        for i, value in enumerate((settings.chance, settings.best)):
            if value is not None:
                constants[i] = value
    free = _free(settings)

    def errors(values: np.ndarray) -> np.ndarray:
        tried = constants.copy()
        tried[free] = values
        return function(tried, x) - y

    bounded = np.isfinite(low[free]).any()
    solution = least_squares(
        errors,
        np.clip(constants, low, high)[free],
        bounds=(low[free], high[free]) if bounded else (-np.inf, np.inf),
        # A sigmoid's starts that end on a plateau creep; those that count converge in a few steps.
        max_nfev=100 if settings.form == "sigmoid" else 4000,
        xtol=1e-14,
        ftol=1e-14,
    )
    constants[free] = solution.x
    return float(solution.cost), constants


def _free(settings: DownstreamSettings) -> np.ndarray:
    """Mask of the constants that are fitted."""
    free = np.ones(len(_CURVES[settings.form][0]), bool)
    if settings.form == "sigmoid":
        free[0] = settings.chance is None
        free[1] = settings.best is None
    return free


def _last_of_each_run(table: RunTable) -> RunTable:
    """The row with the most tokens of each run; all rows where the table names no runs."""
    if "run" not in table:
        return table
    groups = clusters(table, None)
    order = np.lexsort((table["D"], groups))
    last = order[np.append(np.flatnonzero(np.diff(groups[order])), len(order) - 1)]
    return rows_of(table, np.sort(last))


def _held(table: RunTable, held_out: Any) -> np.ndarray:
    """Mask of the held-out rows: as given, or all rows of the fifth of the runs with the most compute."""
    count = len(table["loss"])
    if held_out is not None:
        return _mask(held_out, count)
    compute = table.get("flops", table["N"] * table["D"])
    groups = clusters(table, None)
    most = np.zeros(int(groups.max()) + 1)
    np.maximum.at(most, groups, compute)
    largest = np.argsort(most)[-max(1, len(most) // 5) :]
    return np.isin(groups, largest)


def _mask(rows: Any, count: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.dtype == bool:
        return rows
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask


def _errors(predicted: np.ndarray, measured: np.ndarray) -> list[float]:
    return [float(error) for error in np.abs(predicted / measured - 1)]
