"""Schedules against optax's and against closed forms."""

import jax
import numpy as np
import optax
import pytest

from tlx.base.errors import ConfigError
from tlx.optim import OptimizerConfig, ScheduleConfig, make_schedule

PEAK, TOTAL, WARMUP = 3e-3, 200, 20


def rates(**changes):
    config = OptimizerConfig(learning_rate=PEAK, schedule=ScheduleConfig(**{"warmup": WARMUP} | changes))
    return np.asarray(jax.vmap(make_schedule(config, TOTAL))(np.arange(TOTAL)))


def after(schedule, start=WARMUP):
    """The rise to the peak, then optax's `schedule` counted from `start`."""
    rise = PEAK * np.arange(1, WARMUP + 1) / WARMUP
    rest = [PEAK] * (start - WARMUP) + [float(schedule(step - start)) for step in range(start, TOTAL)]
    return np.concatenate([rise, rest])


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"name": "constant"}, after(optax.constant_schedule(PEAK))),
        (
            {"name": "linear", "final_fraction": 0.25},
            after(optax.linear_schedule(PEAK, PEAK / 4, TOTAL - WARMUP)),
        ),
        ({"name": "cosine"}, after(optax.cosine_decay_schedule(PEAK, TOTAL - WARMUP, alpha=0.1))),
        ({"name": "cosine", "warmup": 0.1}, after(optax.cosine_decay_schedule(PEAK, TOTAL - WARMUP, 0.1))),
        ({"name": "inverse_sqrt"}, after(lambda t: PEAK * np.sqrt(WARMUP / (t + WARMUP)))),
        (
            {"name": "wsd", "cooldown": 50, "final_fraction": 0.0},
            after(optax.linear_schedule(PEAK, 0.0, 50), start=150),
        ),
        ({"name": "wsd", "cooldown": 0.25}, after(optax.linear_schedule(PEAK, PEAK / 10, 50), start=150)),
    ],
)
def test_schedule_is_the_rise_and_its_shape(changes, expected):
    np.testing.assert_allclose(rates(**changes), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "inverse_sqrt", "wsd"])
def test_no_warmup_starts_at_the_peak_and_no_step_stands_still(name):
    found = rates(name=name, warmup=0.0, final_fraction=0.0)
    assert found[0] == np.float32(PEAK) and (found > 0).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "cosin"}, "did you mean 'cosine'"),
        ({"warmup": 300}, "warmup = 300 steps must be at most the run's 200"),
        ({"warmup": 2.5}, "whole number of steps"),
        ({"final_fraction": 2.0}, "final_fraction = 2.0 must be 0 to 1"),
        ({"name": "wsd", "cooldown": -1.0}, "cooldown = -1.0"),
    ],
)
def test_what_cannot_be_used_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        rates(**changes)


def test_t5s_rate_is_constant_before_its_decay():
    """1 / sqrt(max(step, W)) (Raffel et al. 2020, 3.1.2), relative to its value at step W."""
    steps = np.arange(TOTAL)
    expected = PEAK * np.sqrt(WARMUP) / np.sqrt(np.maximum(steps, WARMUP))
    np.testing.assert_allclose(rates(name="inverse_sqrt", warmup_shape="constant"), expected, rtol=1e-6)


def test_berts_decay_counts_from_the_first_step():
    """optimization.py of BERT: polynomial decay of all steps to 0, and below W steps the warm-up in its place."""
    steps = np.arange(TOTAL)
    expected = np.where(steps < WARMUP, PEAK * (steps + 1) / WARMUP, PEAK * (1 - steps / TOTAL))
    found = rates(name="linear", decay_from="start", final_fraction=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[WARMUP] < 0.91 * found[WARMUP - 1]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_is_optaxs(power):
    expected = after(optax.polynomial_schedule(PEAK, PEAK / 4, power, TOTAL - WARMUP))
    np.testing.assert_allclose(
        rates(name="polynomial", power=power, final_fraction=0.25), expected, rtol=1e-5
    )


def test_a_power_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="power = 0.0 must be more than 0"):
        rates(name="polynomial", power=0.0)
