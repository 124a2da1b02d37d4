"""Learning rate schedules: a warm-up to the peak, times a shape."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.optim.config import SCHEDULES, OptimizerConfig, ScheduleConfig

Schedule = Callable[[int | jax.Array], jax.Array]


class SchedulePoint(NamedTuple):
    """Argument of the shapes below, each of which returns the fraction of the peak learning rate, float32."""

    step: jax.Array
    """float32[], updates so far."""
    warmup: int
    """Updates of the warm-up."""
    total: int
    """Updates of the run."""


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
    """Build the schedule: from the number of updates so far to the learning rate of the next, float32.

    The first of W warm-up steps has 1/W of the peak, the last has the peak; with the warm-up shape "constant" all
    have the peak. Raises ConfigError where the config
    is not usable or the warm-up is longer than the run.
    """
    config.schedule.validate()
    shape = SCHEDULES.load(config.schedule.name, allow=None)
    warmup = _steps("warmup", config.schedule.warmup, total_steps)

    def schedule(count: int | jax.Array) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        fraction = shape(config.schedule, SchedulePoint(step, warmup, total_steps))
        if config.schedule.warmup_shape == "constant":
            return config.learning_rate * fraction
        # From 1/W and not from 0: a first update of zero would waste a batch.
        rise = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
        return config.learning_rate * rise * fraction

    return schedule


def constant(config: ScheduleConfig, point: SchedulePoint) -> jax.Array:
    """Keep the peak."""
    return jnp.ones_like(point.step)


def linear(config: ScheduleConfig, point: SchedulePoint) -> jax.Array:
    """Decay linearly from 1 to final_fraction at the end of the run."""
    return 1 - (1 - config.final_fraction) * _decay_progress(config, point)


def polynomial(config: ScheduleConfig, point: SchedulePoint) -> jax.Array:
    """Decay as (1 - progress)^power from 1 to final_fraction at the end of the run."""
    remaining = (1 - _decay_progress(config, point)) ** config.power
    return config.final_fraction + (1 - config.final_fraction) * remaining


def cosine(config: ScheduleConfig, point: SchedulePoint) -> jax.Array:
    """Decay from 1 to final_fraction by half a cosine (Loshchilov and Hutter 2017)."""
    cosine = jnp.cos(jnp.pi * _decay_progress(config, point))
    return config.final_fraction + (1 - config.final_fraction) * (1 + cosine) / 2


def inverse_sqrt(config: ScheduleConfig, point: SchedulePoint) -> jax.Array:
    """Decay as sqrt(W / t) after W warm-up steps (Vaswani et al. 2017), whatever the length of the run."""
    start = max(point.warmup, 1)
    return jnp.sqrt(start / jnp.maximum(point.step, start))


def warmup_stable_decay(config: ScheduleConfig, point: SchedulePoint) -> jax.Array:
    """Keep 1 until the cooldown, then decay linearly to final_fraction (Hu et al. 2024)."""
    # A cooldown that would begin within the warm-up begins at its end.
    start = max(point.warmup, point.total - _steps("cooldown", config.cooldown, point.total))
    return 1 - (1 - config.final_fraction) * _progress(point.step, start, point.total)


def _decay_progress(config: ScheduleConfig, point: SchedulePoint) -> jax.Array:
    """Return the progress of a decay that ends with the run, 0 to 1, and 0 during the warm-up."""
    if config.decay_from == "warmup":
        return _progress(point.step, point.warmup, point.total)
    return jnp.where(point.step < point.warmup, 0.0, _progress(point.step, 0, point.total))


def _progress(step: jax.Array, start: int, end: int) -> jax.Array:
    return jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def _steps(field: str, value: float, total_steps: int) -> int:
    steps = round(value * total_steps) if value < 1 else int(value)
    if steps > total_steps:
        raise ConfigError(
            f"optimizer.schedule.{field} = {steps} steps must be at most the run's {total_steps}; "
            "below 1 it is a fraction of the run"
        )
    return steps
