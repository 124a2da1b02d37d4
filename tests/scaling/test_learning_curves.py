"""Laws of learning curves on curves that are summed up term by term, as the papers write them.

`pytest -m long -s tests/scaling/test_learning_curves.py` counts how many intervals hold.
"""

import numpy as np
import pytest

from tests.scaling.test_coverage import interval
from tlx.base.errors import ConfigError, DataError
from tlx.scaling.learning_curves import CURVE_LAWS, CurveFit, LearningCurve

STEPS = 1200
WARMUP = 100
AT = np.arange(12, STEPS + 1, 12)
TRUE = {
    "annealing": {"L0": 2.6, "A": 0.4, "alpha": 0.5, "C": 0.6, "lambda": 0.995},
    "multi_power": {"L0": 2.6, "A": 0.45, "alpha": 0.45, "B": 90.0, "C": 2.0, "beta": 0.6, "gamma": 0.5},
}


def rates(name):
    """Learning rates of every step: a warm-up to 3e-3, then a shape that ends at a tenth of it."""
    t = np.arange(STEPS)
    after = np.clip((t - WARMUP) / (STEPS - WARMUP), 0, 1)
    shapes = {
        "constant": np.ones(STEPS),
        "cosine": 0.1 + 0.45 * (1 + np.cos(np.pi * after)),
        "linear": 1 - 0.9 * after,
        "wsd": 1 - 0.9 * np.clip((after - 0.8) / 0.2, 0, 1),
    }
    return 3e-3 * np.minimum(1, (t + 1) / WARMUP) * shapes[name]


def losses(law, eta, level=0.0):
    """The law's losses after the steps AT, summed step by step, and `level` higher throughout."""
    q = TRUE[law]
    area = np.cumsum(eta)
    gains = np.zeros(STEPS)
    momentum = total = 0.0
    for i in range(WARMUP, STEPS):
        fall = eta[i - 1] - eta[i]
        if law == "annealing":
            momentum = q["lambda"] * momentum + fall
            total += momentum
            gains[i] = q["C"] * total
        else:
            x = eta[i] ** -q["gamma"] * (area[i:] - area[i - 1])
            gains[i:] += q["B"] * fall * (1 - (1 + q["C"] * x) ** -q["beta"])
    return (q["L0"] + level + q["A"] * area ** -q["alpha"] - gains)[AT - 1]


def curve(law, schedule, part=1.0, noise=0.0, seed=0, level=0.0):
    """A curve of which the first part is known, and its true last loss."""
    eta = rates(schedule)
    exact = losses(law, eta, level)
    measured = exact * np.exp(noise * np.random.default_rng(seed).normal(size=len(AT)))
    known = AT <= part * STEPS
    return LearningCurve(AT[known], measured[known], eta, WARMUP), exact[-1]


def test_annealing_gives_its_constants_back():
    curves = [curve("annealing", name)[0] for name in ("cosine", "constant")]
    fit = CurveFit(curves, "annealing")
    for name, value in TRUE["annealing"].items():
        assert fit.params[name] == pytest.approx(value, rel=1e-3), name


def test_the_end_of_a_run_is_forecast_from_its_first_part():
    """The learning rate of the run has not begun to fall: another run shows what its fall does."""
    known, last = curve("annealing", "wsd", part=0.6)
    reference, _ = curve("annealing", "cosine", level=0.2)
    ahead = CurveFit([known, reference], "annealing").forecast()
    assert ahead.steps[0] == STEPS and ahead.loss[0] == pytest.approx(last, rel=1e-3)
    assert known.losses[-1] > 1.05 * last  # a curve that went on as it is would be far off
    with pytest.raises(DataError, match="has not fallen yet"):
        CurveFit([known], "annealing")


@pytest.mark.slow
def test_multi_power_follows_schedules_that_it_has_not_seen():
    fit = CurveFit([curve("multi_power", name)[0] for name in ("cosine", "wsd")])
    assert fit.noise < 5e-4
    known, last = curve("multi_power", "linear", part=0.5)
    ahead = CurveFit([known, curve("multi_power", "cosine")[0]]).forecast()
    assert ahead.loss[0] == pytest.approx(last, rel=2e-3) and ahead.low[0] < last < ahead.high[0]


def test_what_is_no_curve_is_said():
    known, _ = curve("annealing", "cosine")
    with pytest.raises(ConfigError, match="did you mean 'annealing'"):
        CurveFit([known], "anealing")
    with pytest.raises(DataError, match="8 are needed of both; see a larger part"):
        CurveFit([known._replace(steps=known.steps[:5], losses=known.losses[:5])], "annealing")
    with pytest.raises(DataError, match="must rise"):
        CurveFit([known._replace(steps=known.steps[::-1])], "annealing")
    with pytest.raises(ConfigError, match="not of a run"):
        CurveFit([known], "annealing").forecast(np.array([STEPS + 1]))


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("law", CURVE_LAWS)
def test_intervals_of_curves(law, schedule):
    """The last loss from 60% of a curve with .2% noise, and one finished run of another level beside it."""
    hits = []
    errors = []
    widths = []
    for seed in range(40):
        known, last = curve(law, schedule, part=0.6, noise=0.002, seed=seed)
        reference, _ = curve(law, "cosine", noise=0.002, seed=1000 + seed, level=0.2)
        ahead = CurveFit([known, reference], law).forecast()
        hits.append(bool(ahead.low[0] <= last <= ahead.high[0]))
        errors.append(np.log(ahead.loss[0] / last))
        widths.append(np.log(ahead.high[0] / ahead.low[0]))
    error = np.sqrt(np.mean(np.square(errors)))
    print(
        f"\n{law}, {schedule}: {interval(sum(hits), 40)}, width {np.median(widths):.2%}, rms error {error:.2%}"
    )
    # A cosine alone hardly tells multi_power what a fast fall at the end does: its intervals are too narrow there;
    # configs/scaling/README.md says so, too.
    assert sum(hits) >= (30 if (law, schedule) == ("multi_power", "wsd") else 35)
