"""Laws of a learning curve under its learning rates: the end of a run is forecast from its first checkpoints.

With learning rates eta_1 .. eta_T, S_1(t) their sum up to step t, and W the last step of the warm-up:

annealing (Tissue et al. 2408.11029): L(t) = L0 + A S_1(t)^-alpha - C S_2(t),
    S_2(t) = sum over i <= t of the momentum m_i = lambda m_{i-1} + (eta_{i-1} - eta_i)
multi_power (Luo et al. 2503.12811): L(t) = L0 + A S_1(t)^-alpha - B sum over k <= t of (eta_{k-1} - eta_k) G(x_k),
    G(x) = 1 - (1 + C x)^-beta,  x_k = eta_k^-gamma (S_1(t) - S_1(k - 1))

Falls of the learning rate count from the end of the warm-up on. L0, A and alpha are each run's own; what a fall of
the learning rate does (C and lambda; B, C, beta and gamma) is shared by all curves of a fit, so that a run whose
learning rate has not fallen yet learns it from other runs. One schedule hardly tells the four of multi_power apart: a
weak prior (a factor of _PRIOR at one standard deviation) keeps them finite, and the interval has what is left open.
Arrays: n checkpoints of a curve, p constants, K falls.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import signal, special
from scipy.optimize import least_squares

from tlx.base.errors import ConfigError, DataError, one_of

# Residuals of ln loss beyond which a checkpoint weighs less.
_HUBER = 1e-3

_STARTS = 12

# Standard deviation of the shared constants around the middle of their starts, as a factor, before the data are seen.
_PRIOR = 4.0

# Ends of ln L0, ln A and ln alpha of every curve, A over the area of the whole run.
_OWN_BOUNDS = ((-10.0, 6.0), (-25.0, 6.0), (np.log(0.02), np.log(4)))

# Least noise of ln loss: no law holds more exactly, and schedules are not read more exactly.
_LEAST_NOISE = 2e-4

# Decay of the momentum of annealing, chosen by the fit.
_LAMBDAS = (0.9, 0.97, 0.99, 0.995, 0.998, 0.999, 0.9995)

# Falls of the learning rate that multi_power sums over; a longer schedule is read at as many steps.
_MOST_FALLS = 128

# Checkpoints of a curve that a fit reads; longer ones are averaged in groups of neighbours.
_MOST_POINTS = 100
_FEWEST_POINTS = 8

# Parts of the known checkpoints from which the others are forecast, to see how forecasts drift.
_ROLLOUTS = (0.5, 0.65, 0.8)


class LearningCurve(NamedTuple):
    """Losses of a run so far, and the learning rates of all of it."""

    steps: np.ndarray
    """Steps [n] after which the losses were measured, ascending, 1 or more."""

    losses: np.ndarray
    """Losses [n], above 0."""

    rates: np.ndarray
    """Learning rate [T] of every step of the run, those still to come included."""

    warmup: int = 0
    """Steps of the warm-up."""


class CurveForecast(NamedTuple):
    """Losses that are expected of a run."""

    steps: np.ndarray
    """Steps [m]."""

    loss: np.ndarray
    """Expected losses [m]."""

    low: np.ndarray
    """Lower ends [m] of the interval."""

    high: np.ndarray
    """Upper ends [m] of the interval."""


class _Features(NamedTuple):
    """What the laws read of a schedule at n steps."""

    area: np.ndarray  # S_1 [n] over the area of the whole run
    annealed: np.ndarray  # S_2 [lambdas, n] over the peak learning rate
    falls: np.ndarray  # eta_{k-1} - eta_k [K] over the peak
    rates: np.ndarray  # eta_k [K] over the peak
    since: np.ndarray  # S_1(t) - S_1(k - 1) [n, K] over the area of the whole run, 0 before the fall


class _Law(NamedTuple):
    """The part of a law that falls of the learning rate explain."""

    shared: tuple[str, ...]
    gain: Callable[
        [_Features, np.ndarray, int], np.ndarray
    ]  # [n] of features, shared constants, index of lambda
    starts: tuple[tuple[float, float], ...]  # range that each shared constant is drawn from
    bounds: tuple[tuple[float, float], ...]  # ends of its logarithm


def _annealing_gain(features: _Features, shared: np.ndarray, momentum: int) -> np.ndarray:
    return np.exp(shared[0]) * features.annealed[momentum]


def _multi_power_gain(features: _Features, shared: np.ndarray, momentum: int) -> np.ndarray:
    b, c, beta, gamma = np.exp(shared)
    reach = features.since * np.maximum(features.rates, 1e-6) ** -gamma
    gains = -np.expm1(-beta * np.log1p(c * reach))
    return b * gains @ features.falls


_LAWS = {
    "annealing": _Law(("C",), _annealing_gain, ((1e-4, 0.3),), ((-25.0, 6.0),)),
    "multi_power": _Law(
        shared=("B", "C", "beta", "gamma"),
        gain=_multi_power_gain,
        starts=((0.05, 1.0), (1.0, 100.0), (0.2, 1.5), (0.2, 1.0)),
        bounds=((-7.0, 4.0), (-5.0, 9.0), (-4.0, 1.6), (-5.0, 1.1)),
    ),
}

CURVE_LAWS = tuple(_LAWS)


class CurveFit:
    """A law of learning curves fitted to one or more runs."""

    def __init__(self, curves: Sequence[LearningCurve], law: str = "multi_power", seed: int = 0):
        """Fit a law to curves whose falls of the learning rate act alike.

        Args:
            curves: The runs.
            law: One of CURVE_LAWS.
            seed: Seed of the starts and of the bootstrap.

        Raises:
            ConfigError: The law is unknown.
            DataError: A curve is too short or not legal, or no curve shows what a fall of the learning rate does.
        """
        if law not in _LAWS:
            raise ConfigError(one_of("law", law, CURVE_LAWS))
        self.law = law
        self.curves = [_thinned(_checked(curve)) for curve in curves]
        if not self.curves:
            raise DataError("no learning curve is given")
        self._law = _LAWS[law]
        self._features = [_features(curve, curve.steps) for curve in self.curves]
        if not any(_has_fallen(curve) for curve in self.curves):
            raise DataError(
                "the learning rate has not fallen yet in any curve, so that nothing shows what its fall will do: "
                "give a finished run of another size or schedule beside this one"
            )
        self._targets = [np.log(curve.losses) for curve in self.curves]
        self._rng = np.random.default_rng(seed)
        self._middles = np.array([np.log(low * high) / 2 for low, high in self._law.starts])
        # The prior weighs as much as the noise lets it: first that of clean curves, then what is left of these.
        self.noise = _HUBER
        """Standard deviation of ln loss around the fit."""
        self.theta, self._momentum = self._solve_all()
        self._measure_noise()
        _, self.theta = self._solve(self.theta, self._momentum, 200)
        self._measure_noise()
        self._covariance = self._spread_of_constants()

    @property
    def params(self) -> dict[str, float]:
        """Constants of the first curve and the shared ones, in the units of its schedule."""
        curve = self.curves[0]
        total = float(curve.rates.sum())
        peak = float(curve.rates.max())
        alpha = float(np.exp(self.theta[2]))
        values = {
            "L0": float(np.exp(self.theta[0])),
            "A": float(np.exp(self.theta[1])) * total**alpha,
            "alpha": alpha,
        }
        shared = np.exp(self.theta[3 * len(self.curves) :])
        if self.law == "annealing":
            return values | {"C": float(shared[0]) / peak, "lambda": _LAMBDAS[self._momentum]}
        b, c, beta, gamma = (float(value) for value in shared)
        return values | {"B": b / peak, "C": c * peak**gamma / total, "beta": beta, "gamma": gamma}

    def forecast(
        self, steps: np.ndarray | None = None, interval: float = 0.95, curve: int = 0
    ) -> CurveForecast:
        """Forecast the losses of a curve.

        The interval has the noise, the constants (linearised at the fit, for correlated residuals), and the errors of
        forecasts of the curve's own later checkpoints from its earlier ones, growing with ln S_1.

        Args:
            steps: Steps [m]; None for the end of the run.
            interval: Probability that the interval holds a measured loss.
            curve: Index of the curve.

        Returns:
            Losses with their interval.

        Raises:
            ConfigError: `interval` is no probability, or a step is not of the run.
        """
        if not 0 < interval < 1:
            raise ConfigError(f"interval = {interval} must be a probability between 0 and 1")
        known = self.curves[curve]
        at = np.array([len(known.rates)] if steps is None else steps, int)
        if at.min() < 1 or at.max() > len(known.rates):
            raise ConfigError(f"steps {at.min()} to {at.max()} are not of a run of {len(known.rates)} steps")
        features = _features(known, at)
        center = self._log_loss(self.theta, features, curve, self._momentum)
        slope = _slopes(lambda theta: self._log_loss(theta, features, curve, self._momentum), self.theta)
        constants = np.einsum("mp,pq,mq->m", slope, self._covariance, slope)
        last = _features(known, known.steps[-1:]).area[0]
        ahead = np.maximum(0, np.log(features.area / last))
        spread = np.sqrt(constants + self.noise**2 + (self._rollout_rate(curve) * ahead) ** 2)
        reach = float(special.ndtri((1 + interval) / 2)) * spread
        return CurveForecast(at, np.exp(center), np.exp(center - reach), np.exp(center + reach))

    def _log_loss(self, theta: np.ndarray, features: _Features, curve: int, momentum: int) -> np.ndarray:
        level, size, power = np.exp(theta[3 * curve : 3 * curve + 3])
        gain = self._law.gain(features, theta[3 * len(self.curves) :], momentum)
        # A gain beyond the rest of the loss is no loss: such constants are pushed back by a large residual.
        return np.log(np.maximum(level + size * features.area**-power - gain, 1e-3 * level))

    def _errors(self, theta: np.ndarray, momentum: int) -> np.ndarray:
        """Fitted minus measured ln loss of all curves, then the prior's residuals."""
        parts = [
            self._log_loss(theta, features, i, momentum) - target
            for i, (features, target) in enumerate(zip(self._features, self._targets, strict=True))
        ]
        shared = theta[3 * len(self.curves) :]
        parts.append(self.noise * (shared - self._middles) / np.log(_PRIOR))
        return np.concatenate(parts)

    def _measure_noise(self) -> None:
        """Set the residuals, and the noise by their median."""
        self.residuals = self._errors(self.theta, self._momentum)[: -len(self._middles)]
        """Residuals of ln loss, of all curves one after the other: fitted minus measured."""
        free = max(1, len(self.residuals) - len(self.theta))
        spread = 1.4826 * float(np.median(np.abs(self.residuals)))
        self.noise = max(spread * np.sqrt(len(self.residuals) / free), _LEAST_NOISE)

    def _spread_of_constants(self) -> np.ndarray:
        """Covariance [p, p] of the constants: Gauss-Newton's, with as many independent residuals as they show."""
        slope = _slopes(lambda theta: self._errors(theta, self._momentum), self.theta)
        precision = slope.T @ slope / self.noise**2
        starts = np.cumsum([len(target) for target in self._targets])[:-1]
        pairs = [(part[:-1] @ part[1:], part @ part) for part in np.split(self.residuals, starts)]
        products, squares = np.sum(pairs, axis=0)
        correlation = float(np.clip(products / max(squares, 1e-300), 0, 0.95))
        inflation = (1 + correlation) / (1 - correlation)
        return inflation * np.linalg.pinv(precision, hermitian=True)

    def _solve(self, start: np.ndarray, momentum: int, evaluations: int) -> tuple[float, np.ndarray]:
        solution = least_squares(
            self._errors,
            start,
            bounds=self._bounds(),
            args=(momentum,),
            loss="huber",
            f_scale=_HUBER,
            x_scale="jac",
            max_nfev=evaluations,
            xtol=1e-12,
            ftol=1e-12,
        )
        return float(solution.cost), solution.x

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends [p] and [p] of the constants."""
        ends = np.array([*_OWN_BOUNDS * len(self.curves), *self._law.bounds])
        return ends[:, 0], ends[:, 1]

    def _solve_all(self) -> tuple[np.ndarray, int]:
        """The best constants over all starts, and the index of lambda."""
        best = (np.inf, np.empty(0), 0)
        momenta = range(len(_LAMBDAS)) if self.law == "annealing" else (0,)
        for momentum in momenta:
            candidates = []
            for _ in range(_STARTS // len(momenta) + 2):
                cost, theta = self._solve(self._start(momentum), momentum, 40)
                candidates.append((cost, theta))
            candidates.sort(key=lambda candidate: candidate[0])
            for _, theta in candidates[:2]:
                cost, theta = self._solve(theta, momentum, 200)
                if cost < best[0]:
                    best = (cost, theta, momentum)
        return best[1], best[2]

    def _start(self, momentum: int) -> np.ndarray:
        values = []
        for target in self._targets:
            low = target.min()
            values += [
                low + np.log(self._rng.uniform(0.6, 1.0)),
                low + np.log(self._rng.uniform(0.02, 0.4)),
                np.log(self._rng.uniform(0.1, 0.8)),
            ]
        for low, high in self._law.starts:
            values.append(self._rng.uniform(np.log(low), np.log(high)))
        if self.law == "annealing":
            # C is per step: the sums of slow momenta are that much larger.
            values[-1] += np.log(1 - _LAMBDAS[momentum])
        low, high = self._bounds()
        return np.clip(values, low + 1e-3, high - 1e-3)

    def _rollout_rate(self, curve: int) -> float:
        """Root mean square error per unit of ln S_1 of forecasts of the known part from its beginning."""
        known = self.curves[curve]
        squares = []
        for part in _ROLLOUTS:
            count = int(part * len(known.steps))
            if count < _FEWEST_POINTS:
                continue
            features = _features(known, known.steps)
            begin = _Features(
                features.area[:count],
                features.annealed[:, :count],
                features.falls,
                features.rates,
                features.since[:count],
            )
            theta = self._own_constants(begin, self._targets[curve][:count], curve)
            error = (
                self._log_loss(theta, features, curve, self._momentum)[count:] - self._targets[curve][count:]
            )
            ahead = np.log(features.area[count:] / features.area[count - 1])
            excess = max(0.0, float((error**2).mean()) - self.noise**2)
            squares.append(excess / float((ahead**2).mean()))
        return float(np.sqrt(np.mean(squares))) if squares else 0.0

    def _own_constants(self, features: _Features, target: np.ndarray, curve: int) -> np.ndarray:
        """The constants with L0, A and alpha of a curve refitted to a part of it, the shared ones kept."""
        own = slice(3 * curve, 3 * curve + 3)

        def errors(values: np.ndarray) -> np.ndarray:
            theta = self.theta.copy()
            theta[own] = values
            return self._log_loss(theta, features, curve, self._momentum) - target

        solution = least_squares(
            errors,
            self.theta[own],
            loss="huber",
            f_scale=_HUBER,
            bounds=np.transpose(_OWN_BOUNDS),
            max_nfev=60,
        )
        theta = self.theta.copy()
        theta[own] = solution.x
        return theta


def _checked(curve: LearningCurve) -> LearningCurve:
    """The curve as arrays. Raises DataError where it is too short or not legal."""
    steps = np.asarray(curve.steps, int)
    losses = np.asarray(curve.losses, float)
    rates = np.asarray(curve.rates, float)
    if len(steps) != len(losses) or len(steps) < _FEWEST_POINTS:
        raise DataError(
            f"a curve has {len(steps)} steps and {len(losses)} losses: {_FEWEST_POINTS} are needed of both; "
            "see a larger part, or log more often (log.every, eval.every)"
        )
    if (np.diff(steps) <= 0).any() or steps[0] < 1 or steps[-1] > len(rates):
        raise DataError(f"the steps of a curve must rise, within 1 to {len(rates)}, the run's learning rates")
    if not (np.isfinite(losses) & (losses > 0)).all():
        raise DataError("the losses of a curve must be positive and finite")
    if not (np.isfinite(rates) & (rates >= 0)).all() or not rates.sum() > 0:
        raise DataError("the learning rates of a curve must be finite, not negative, and not all zero")
    if not 0 <= curve.warmup < len(rates):
        raise DataError(f"warmup = {curve.warmup} must be within the run of {len(rates)} steps")
    after = steps > curve.warmup
    if after.sum() < _FEWEST_POINTS:
        raise DataError(
            f"{after.sum()} losses of a curve come after its warm-up: {_FEWEST_POINTS} are needed"
        )
    return LearningCurve(steps[after], losses[after], rates, curve.warmup)


def _thinned(curve: LearningCurve) -> LearningCurve:
    """The curve with neighbours averaged, in groups of equal length in ln step."""
    count = len(curve.steps)
    if count <= _MOST_POINTS:
        return curve
    edges = np.linspace(np.log(curve.steps[0]), np.log(curve.steps[-1]) + 1e-9, _MOST_POINTS + 1)
    group = np.searchsorted(edges, np.log(curve.steps), side="right")
    _, group = np.unique(group, return_inverse=True)
    members = np.bincount(group)
    steps = np.round(np.bincount(group, curve.steps) / members).astype(int)
    losses = np.bincount(group, curve.losses) / members
    return curve._replace(steps=steps, losses=losses)


def _slopes(function: Callable[[np.ndarray], np.ndarray], theta: np.ndarray) -> np.ndarray:
    """Gradient [n, p] of a function of the constants, by central differences."""
    step = 1e-5
    columns = []
    for j in range(len(theta)):
        shift = np.zeros(len(theta))
        shift[j] = step
        columns.append((function(theta + shift) - function(theta - shift)) / (2 * step))
    return np.stack(columns, -1)


def _has_fallen(curve: LearningCurve) -> bool:
    """Whether the learning rate has fallen by a tenth within the known part of a curve."""
    part = curve.rates[curve.warmup : curve.steps[-1]]
    return bool(part.min() < 0.9 * part.max())


def _edges(falls: np.ndarray, begin: int) -> np.ndarray:
    """Indices of steps between which falls are summed, dense where the learning rate falls most."""
    steps = np.arange(begin, len(falls) + 1)
    if len(steps) <= _MOST_FALLS + 1:
        return steps
    fallen = np.concatenate([[0.0], np.cumsum(np.abs(falls[begin:]))])
    density = (steps - begin) / len(steps) + fallen / max(fallen[-1], 1e-30)
    even = np.linspace(0, density[-1], _MOST_FALLS + 1)
    return np.unique(np.interp(even, density, steps).astype(int))


def _features(curve: LearningCurve, steps: np.ndarray) -> _Features:
    peak = curve.rates.max()
    area = np.cumsum(curve.rates)
    total = area[-1]
    begin = max(curve.warmup, 1)
    falls = np.zeros(len(curve.rates))
    falls[begin:] = (curve.rates[begin - 1 : -1] - curve.rates[begin:]) / peak
    annealed = [np.cumsum(signal.lfilter([1.0], [1.0, -decay], falls))[steps - 1] for decay in _LAMBDAS]
    edges = _edges(falls, begin)
    # Falls between two edges act in their middle; where the run is short, the edges are all steps.
    summed = np.add.reduceat(falls, edges[:-1]) if len(edges) > 1 else np.zeros(0)
    middles = (edges[:-1] + edges[1:] - 1) // 2
    since = np.maximum(0, area[steps - 1][:, None] - area[np.maximum(middles - 1, 0)][None])
    return _Features(
        area[steps - 1] / total, np.array(annealed), summed, curve.rates[middles] / peak, since / total
    )
