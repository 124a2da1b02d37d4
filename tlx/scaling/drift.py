"""Forecasts that allow for what a law leaves out: signed drift that grows with the distance, averaged over forms.

Measured losses bend away from a fitted law. The forecast of a fit is therefore that of

    ln loss = law(constants) + drift(ln N) + drift(ln D) [+ drift(ln flops)] + noise,

where each drift is an integrated random walk: inside the table it is what the residuals show, beyond it the last
slope goes on and its uncertainty grows with the distance to the power 1.5. The law is linearised at the fit, so that
all is a Bayesian linear regression; its models differ in the size of the drift (zero is one of them), in its
coordinates, and in the form of the law (_OTHER_FORMS). They are averaged by their held-out score: the density that
each gives to the larger budgets after it has seen the smaller ones. Noise may differ between budgets, and outliers
weigh less. Arrays: n rows of the table, p constants of the law, m features, K models, t rows to forecast.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from tlx.scaling import fits
from tlx.scaling.evaluation import Problem, predict_log
from tlx.scaling.fits import Fit
from tlx.scaling.law_form import Law
from tlx.scaling.laws import get_law
from tlx.scaling.runs import RunTable, rows_of

# Forms of the law that are averaged with the one that was fitted, and their weight before the data are seen.
_OTHER_FORMS = {"chinchilla": ("kaplan",), "kaplan": ("chinchilla",)}
_OTHER_WEIGHT = 0.2

# Standard deviation of the change of slope per unit of a logarithm, in units of the noise; 0 is no drift, whose
# weight before the data are seen is _NO_DRIFT.
_SIZES = np.concatenate([[0.0], np.geomspace(0.05, 12.8, 9)])
_NO_DRIFT = 0.8

# Power of the held-out score in the weights. With 1 the models would have to be true; of the powers .3, .5 and 1 this
# one covers best on the public tables, whichever of them is left out (tests/scaling/test_coverage.py).
_TEMPER = 0.5

# Distance of the knots of a drift in ln units (an octave), and how many there are at most.
_KNOT = np.log(2)
_MAX_KNOTS = 24

# Octaves of compute over which noise is averaged, and the weight of the table's mean noise, in rows.
_NOISE_OCTAVES = 2.0
_NOISE_ROWS = 4.0

# Sizes of drift, by their index in _SIZES, that the noise is estimated around; and the least share of a residual's
# variance that a regression is taken to leave.
_NOISE_SIZES = [0, 1, 3, 5, 7, 9]
_LEAST_FREE = 0.1

# Residuals further out than this many standard deviations weigh less.
_OUTLYING = 2.0

# Rows of a larger table are drawn at random: memory then does not grow with it.
_MAX_ROWS = 2000

# Probability from which a drift is called identified.
IDENTIFIED = 0.9


class Forecast(NamedTuple):
    """Forecast of ln loss for each of t rows."""

    center: np.ndarray
    """Median [t], with the drift."""

    low: np.ndarray
    """Lower end [t] of the interval."""

    high: np.ndarray
    """Upper end [t] of the interval."""

    drift: np.ndarray
    """Center minus the prediction of the law that was fitted [t]."""


class _Form(NamedTuple):
    """A form of the law, linearised at its own fit."""

    law: Law
    constants: np.ndarray  # [p]
    scale: np.ndarray  # size of each column of the gradient [p]
    gradient: np.ndarray  # [n, p], scaled
    residuals: np.ndarray  # [n]


class _Model(NamedTuple):
    """A form with drifts of one size along some coordinates, and its posterior."""

    form: _Form
    axes: tuple[str, ...]
    size: float  # of the drift, in ln loss
    coefficients: np.ndarray  # [m]
    factor: np.ndarray  # Cholesky factor of the precision [m, m]
    variance: float  # what all variances are multiplied by


class Outlook:
    """All models of a fit with their weights. Made once; forecasts are then cheap."""

    def __init__(self, fit: Fit):
        """Weigh the models. Raises DataError where the fit is not identified."""
        fit.check()
        self.fit = fit
        law = get_law(fit.law)
        rows = len(fit.runs[law.target])
        self._kept = np.arange(rows)
        if rows > _MAX_ROWS:
            self._kept = np.sort(np.random.default_rng(0).choice(rows, _MAX_ROWS, replace=False))
        self._runs = rows_of(fit.runs, self._kept)
        self._log_compute = log_compute(law, self._runs)
        self._forms = self._fitted_forms(law)
        self._knots = {axis: _knots(_coordinate(axis, law, self._runs)) for axis in self._axes(law)}
        self._estimate_noise()
        self._models, self.weights = self._weigh(law)
        self._dof = max(4, len(self._kept) - len(law.names))

    @property
    def drift_probability(self) -> float:
        """Probability that the table's losses drift away from every form of the law."""
        return float(sum(w for w, model in zip(self.weights, self._models, strict=True) if model.size > 0))

    @property
    def noise(self) -> float:
        """Standard deviation of ln loss of a run at the largest budget of the table."""
        return self._noise_at_end

    def forecast(self, rows: RunTable, interval: float = 0.95, noise: bool = True) -> Forecast:
        """Forecast ln loss.

        Args:
            rows: Columns that the law reads, t rows.
            interval: Probability of the interval.
            noise: Whether the interval is that of a run's measured loss, or else of its expectation.

        Returns:
            Center, interval and drift of each row.
        """
        mean, deviation = self._moments(rows, noise)
        ends = [
            _quantile(self.weights, mean, deviation, self._dof, probability)
            for probability in ((1 - interval) / 2, 0.5, (1 + interval) / 2)
        ]
        law = predict_log(get_law(self.fit.law), rows, self.fit.constants())
        return Forecast(ends[1], ends[0], ends[2], ends[1] - law)

    def sample(self, rows: RunTable, count: int, seed: int) -> np.ndarray:
        """Draw ln loss of one run, without the noise of its measurement.

        Args:
            rows: Columns that the law reads; the first row is drawn.
            count: Number of draws.
            seed: Seed of the draws.

        Returns:
            ln loss [count].
        """
        rng = np.random.default_rng(seed)
        mean, deviation = self._moments(rows, noise=False)
        model = rng.choice(len(self.weights), count, p=self.weights)
        return mean[model, 0] + deviation[model, 0] * rng.standard_t(self._dof, count)

    def _axes(self, law: Law) -> tuple[str, ...]:
        """Coordinates of drifts: the columns that the law reads, then compute."""
        columns = tuple(name for name in law.columns if name != "flops")
        return (*columns, "flops") if _has_flops(law) else columns

    def _fitted_forms(self, law: Law) -> list[_Form]:
        names = _OTHER_FORMS.get(law.name, ())
        settings = self.fit.settings
        forms = [_linearised(law, self._runs, self.fit.constants())]
        for name in names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other = fits.fit(self._runs, name, loss=settings.loss, boot=0, starts=24)
            if other.ok:
                forms.append(_linearised(get_law(name), self._runs, other.constants()))
        return forms

    def _estimate_noise(self) -> None:
        """Noise of each row by budget, and how much each row weighs, around the form that fits best."""
        estimates = [self._noise_around(form) for form in self._forms]
        best = min(estimates, key=lambda estimate: float(np.median(np.log(estimate[0]))))
        self._noise, robust, self._noise_at_end = best
        self._root_weights = np.sqrt(robust) / self._noise

    def _noise_around(self, form: _Form) -> tuple[np.ndarray, np.ndarray, float]:
        """(standard deviation [n], weight [n] of a robust regression, deviation at the largest budget)."""
        residuals = form.residuals
        noise = np.full(len(residuals), 1.4826 * np.median(np.abs(residuals - np.median(residuals))) + 1e-6)
        octaves = self._log_compute / np.log(2)
        near = np.exp(-0.5 * ((octaves[:, None] - octaves[None]) / _NOISE_OCTAVES) ** 2)
        left = residuals
        end = noise[0]
        for _ in range(4):
            left, share = self._undrifted(form, float(np.median(noise)), _robust_weights(left, noise))
            deviations = np.abs(left) / np.sqrt(np.maximum(_LEAST_FREE, 1 - share))
            trend = _noise_trend(octaves, deviations)
            squares = np.minimum(deviations, 2.5 * noise) ** 2 / trend**2
            typical = _NOISE_ROWS * float(squares.mean())
            noise = trend * np.sqrt((near @ squares + typical) / (near.sum(1) + _NOISE_ROWS)) + 1e-6
            end = float(noise[np.argmax(octaves)])
        return noise, _robust_weights(left, noise), end

    def _undrifted(self, form: _Form, unit: float, robust: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals [n] around the form with drifts of the sizes that they show, and the leverage [n] of each row.

        Around a form without its drift the drift would count as noise. All rows have the same noise `unit` here:
        weights by an estimate of the noise would fit quiet rows ever more closely, and call them ever quieter.
        """
        design = self._design(form, self._axes(form.law), 1.0)
        constants = form.gradient.shape[1]
        root = np.sqrt(robust) / unit
        scores = []
        lefts = []
        shares = []
        for size in _SIZES[_NOISE_SIZES]:
            sized = design * np.where(np.arange(design.shape[1]) < constants, 1.0, size * unit)
            weighted = sized * root[:, None]
            factor, image, rest = _regress(weighted, form.residuals * root, constants)
            prior = _NO_DRIFT if size == 0 else (1 - _NO_DRIFT) / (len(_NOISE_SIZES) - 1)
            dof = len(root) - constants + 1
            scores.append(_TEMPER * _log_evidence(factor, rest, dof) + np.log(prior))
            lefts.append(form.residuals - sized @ np.linalg.solve(factor.T, image))
            shares.append((np.linalg.solve(factor, weighted.T) ** 2).sum(0))
        weights = np.exp(np.array(scores) - max(scores))
        weights /= weights.sum()
        return weights @ np.array(lefts), weights @ np.array(shares)

    def _design(self, form: _Form, axes: Sequence[str], size: float) -> np.ndarray:
        """Gradient of the form and features of its drifts [n, m]."""
        features = [form.gradient]
        for axis in axes:
            features.append(size * _features(_coordinate(axis, form.law, self._runs), self._knots[axis]))
        return np.hstack(features)

    def _weigh(self, law: Law) -> tuple[list[_Model], np.ndarray]:
        """Posterior of every model, and the models' weights [K]."""
        axes = self._axes(law)
        choices = dict.fromkeys((tuple(axis for axis in axes if axis != "flops") or axes, axes))
        unit = float(np.median(self._noise))
        seen = self._log_compute <= np.median(self._log_compute)
        models = []
        scores = []
        for i, form in enumerate(self._forms):
            share = _OTHER_WEIGHT if i else 1.0
            for j, chosen in enumerate(choices):
                for size in _SIZES[j > 0 :]:  # no drift is the same model along any coordinates
                    model, score = self._posterior(form, chosen, size * unit, seen)
                    prior = _NO_DRIFT if size == 0 else (1 - _NO_DRIFT) / (len(_SIZES) - 1) / len(choices)
                    models.append(model)
                    scores.append(_TEMPER * score + np.log(prior * share))
        weights = np.exp(np.array(scores) - max(scores))
        return models, weights / weights.sum()

    def _posterior(
        self, form: _Form, axes: tuple[str, ...], size: float, seen: np.ndarray
    ) -> tuple[_Model, float]:
        """A model's posterior, and the log density of the rows that are not `seen` given those that are."""
        design = self._design(form, axes, size) * self._root_weights[:, None]
        target = form.residuals * self._root_weights
        constants = form.gradient.shape[1]
        factor, image, rest = _regress(design, target, constants)
        first, _, first_rest = _regress(design[seen], target[seen], constants)
        dof = len(target) - constants + 1
        first_dof = max(0, int(seen.sum()) - constants) + 1
        score = _log_evidence(factor, rest, dof) - _log_evidence(first, first_rest, first_dof)
        coefficients = np.linalg.solve(factor.T, image)
        return _Model(form, axes, size, coefficients, factor, (rest + 1) / dof), score

    def _moments(self, rows: RunTable, noise: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [K, t] of ln loss by each model."""
        means = []
        variances = []
        slopes = {id(form): _gradient(form, rows) for form in self._forms}
        centers = {id(form): predict_log(form.law, rows, form.constants) for form in self._forms}
        for model in self._models:
            features = [slopes[id(model.form)]]
            beyond = 0.0
            for axis in model.axes:
                x = _coordinate(axis, model.form.law, rows)
                knots = self._knots[axis]
                features.append(model.size * _features(x, knots))
                # Changes of slope that are still to come: the variance of an integrated random walk.
                beyond = beyond + model.size**2 * np.maximum(0, x - knots.end) ** 3 / 3
            design = np.hstack(features)
            means.append(centers[id(model.form)] + design @ model.coefficients)
            spread = (np.linalg.solve(model.factor, design.T) ** 2).sum(0) + beyond
            variances.append(spread * model.variance)
        variance = np.array(variances) + (self._noise_at_end**2 if noise else 0.0)
        return np.array(means), np.sqrt(variance)


# Forecasts ask for the outlook of one fit many times; fits are compared by identity.
@functools.lru_cache(maxsize=16)
def outlook(fit: Fit) -> Outlook:
    """Return the fit's outlook. Raises DataError where the fit is not identified."""
    return Outlook(fit)


def log_compute(law: Law, runs: RunTable) -> np.ndarray:
    """Return ln flops of each row; for a law whose columns do not tell them, ln of the product of its columns."""
    if _has_flops(law):
        return np.log(runs["flops"])
    return np.sum([np.log(runs[name]) for name in law.columns], axis=0)


def _robust_weights(residuals: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Weights [n] that let no residual count for more than one of _OUTLYING standard deviations."""
    return np.minimum(1, (_OUTLYING * noise / np.maximum(np.abs(residuals), 1e-12)) ** 2)


def _noise_trend(octaves: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Noise [n] relative to the middle of the table, by a line through ln |residual| that is shrunk by its error."""
    x = octaves - octaves.mean()
    squares = float((x**2).sum())
    if squares < 1e-9 or len(x) < 6:
        return np.ones(len(x))
    size = np.log(np.abs(residuals) + 1e-9)
    slope = float(x @ size) / squares
    rest = size - size.mean() - slope * x
    error = float(rest @ rest) / (len(x) - 2) / squares
    return np.exp(slope * max(0.0, 1 - error / max(slope**2, 1e-30)) * x)


def _has_flops(law: Law) -> bool:
    return "flops" in law.columns or {"N", "D"} <= set(law.columns)


class _Knots(NamedTuple):
    """Points at which the slope of a drift changes."""

    values: np.ndarray
    step: float
    end: float  # the table's largest value


def _knots(x: np.ndarray) -> _Knots:
    step = max(_KNOT, float(np.ptp(x)) / _MAX_KNOTS)
    return _Knots(np.arange(x.min(), x.max() - 1e-9, step), step, float(x.max()))


def _features(x: np.ndarray, knots: _Knots) -> np.ndarray:
    """Integrated random walk as ramps from each knot, each with a slope of variance `step`."""
    return np.sqrt(knots.step) * np.maximum(0, x[:, None] - knots.values[None])


def _coordinate(axis: str, law: Law, runs: RunTable) -> np.ndarray:
    """Ln of a column; half of ln flops, which grows as N and D do."""
    return log_compute(law, runs) / 2 if axis == "flops" else np.log(runs[axis])


def _linearised(law: Law, runs: RunTable, constants: np.ndarray) -> _Form:
    prediction = predict_log(law, runs, constants)
    scale = np.ones(len(law.names))
    form = _Form(law, constants, scale, np.empty(0), np.log(runs[law.target]) - prediction)
    gradient = _gradient(form, runs)
    scale = np.sqrt((gradient**2).sum(0)) + 1e-12
    return form._replace(scale=scale, gradient=gradient / scale)


def _gradient(form: _Form, rows: RunTable) -> np.ndarray:
    """Gradient [t, p] of ln loss by the law's own constants, over `scale`; 0 for a constant that is fixed."""
    law = form.law
    columns = {name: rows[name] for name in law.columns}
    problem = Problem(law, columns | {law.target: np.ones(len(rows[law.columns[0]]))})
    _, slope = problem.evaluate(problem.inside(form.constants)[None])
    free = np.array([name != "" for name in law.names])
    return slope[0] @ problem.change * free / form.scale


def _regress(design: np.ndarray, target: np.ndarray, constants: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Ridge regression with a flat prior on the first columns and a standard normal one on the others.

    Returns:
        Cholesky factor L of the precision, L^-1 design' target, and the squares that are left.
    """
    precision = design.T @ design
    # The tiny part keeps constants that a few rows do not tell apart from ending the factorisation.
    ridge = np.where(np.arange(len(precision)) < constants, 1e-8 * (1 + np.diag(precision).max()), 1.0)
    factor = np.linalg.cholesky(precision + np.diag(ridge))
    image = np.linalg.solve(factor, design.T @ target)
    return factor, image, max(0.0, float(target @ target - image @ image))


def _log_evidence(factor: np.ndarray, rest: float, dof: float) -> float:
    """Log density of the rows of a regression, up to a constant: Student's t, the noise's scale integrated out.

    factor and rest are of _regress; the scale's prior has one degree of freedom, which dof counts.
    """
    return float(-np.log(np.diag(factor)).sum() - dof / 2 * np.log(rest + 1))


def _quantile(
    weights: np.ndarray, mean: np.ndarray, deviation: np.ndarray, dof: int, probability: float
) -> np.ndarray:
    """Quantile [t] of mixtures of Student's t, by bisection."""
    low = (mean - 200 * deviation).min(0)
    high = (mean + 200 * deviation).max(0)
    for _ in range(60):
        middle = (low + high) / 2
        below = weights @ special.stdtr(dof, (middle - mean) / deviation) < probability
        low = np.where(below, middle, low)
        high = np.where(below, high, middle)
    return (low + high) / 2
