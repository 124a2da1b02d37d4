"""Loss spikes: a step whose loss is far above those of the last accepted steps is skipped, as one that is not finite.

The limit is median + threshold * MAD of the window's losses, MAD the median absolute deviation scaled to a normal's
standard deviation. Median and MAD hold against half of the window being odd, unlike the mean and the deviation of
OLMo's rule. A rejected loss never enters the window: one NaN would make every later limit NaN.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tlx.training.config import SpikeConfig

# Name of the window in State.extra.
NAME = "spike"
# Scales the MAD of a normal distribution to its standard deviation.
_NORMAL = 1.4826
# Smallest deviation relative to the median: losses of a run that has nothing left to learn hardly differ.
_LEAST = 1e-3


def initial_window(config: SpikeConfig) -> dict[str, Any]:
    """Return what State.extra holds before the first step: {} where spikes are not looked for."""
    if not config.window:
        return {}
    return {
        NAME: {"losses": jnp.zeros(config.window, jnp.float32), "count": jnp.zeros((), jnp.int32)},
    }


def loss_limit(config: SpikeConfig, extra: Mapping[str, Any]) -> jax.Array:
    """Return the largest loss that is no spike.

    Args:
        config: train.spike, switched on.
        extra: State.extra before the step.

    Returns:
        float32 []; train.spike.warmup_cap (inf without one) until the window is full.
    """
    losses = extra[NAME]["losses"]
    median = jnp.median(losses)
    deviation = _NORMAL * jnp.median(jnp.abs(losses - median))
    limit = median + config.threshold * jnp.maximum(deviation, _LEAST * jnp.abs(median))
    cap = jnp.inf if config.warmup_cap is None else config.warmup_cap
    return jnp.where(extra[NAME]["count"] >= config.window, limit, cap).astype(jnp.float32)


def next_window(extra: Mapping[str, Any], loss: jax.Array, accepted: jax.Array) -> dict[str, Any]:
    """Return State.extra after a step: an accepted loss replaces the oldest, another changes nothing.

    Args:
        extra: State.extra before the step, with a window.
        loss: float32 []: loss of the step.
        accepted: bool []: whether its update was made.
    """
    window = extra[NAME]
    # Selected before it is stored, so that a NaN is never multiplied into the window.
    oldest = window["count"] % window["losses"].size
    value = jnp.where(accepted, loss, window["losses"][oldest])
    losses = window["losses"].at[oldest].set(value)
    count = window["count"] + accepted.astype(jnp.int32)
    return {**extra, NAME: {"losses": losses, "count": count}}
