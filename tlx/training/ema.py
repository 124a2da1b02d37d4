"""Exponential moving average of the trained parameters, kept in State.extra and sharded as they are.

After accepted step n the average is d average + (1 - d) params with d = min(decay, (n + 1) / (n + 10)): the rule of
TensorFlow's ExponentialMovingAverage with num_updates, by which the average of a short run forgets the initial
parameters. The mean of the last iterates has less noise of the gradient than the last one (Polyak and Juditsky 1992).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from tlx.training import mixout
from tlx.training.config import EmaConfig, TrainConfig
from tlx.training.spikes import initial_window
from tlx.training.state import State

# Name of the average in State.extra, and of the parameters that tlx.load takes it for.
NAME = "ema"

_Result = TypeVar("_Result")


def initial_extra(config: TrainConfig, params: Any) -> dict[str, Any]:
    """Return what State.extra holds before the first step: {} where it keeps nothing.

    Args:
        config: Config of the trainer.
        params: Trained parameters that the average begins with.
    """
    extra = initial_window(config.spike)
    if config.ema.decay:
        # Copied: the step donates both, and may not be given one buffer twice.
        extra[NAME] = jax.tree.map(lambda param: jnp.array(param, _dtype(param), copy=True), params)
    if config.mixout:
        extra[mixout.NAME] = mixout.initial_values(params)
    return extra


def with_initial_extra(
    initial: Callable[[Any], dict[str, Any]], state: State, abstract: State, has: Collection[str] = ()
) -> State:
    """Return the state with those entries of State.extra as before the first step that it does not have.

    Args:
        initial: State.extra before the first step, of the trained parameters.
        state: Train state whose parameters an average begins with.
        abstract: Abstract train state, each leaf with its sharding.
        has: Names of the entries that the state's `extra` has.
    """
    missing = {name: leaf for name, leaf in abstract.extra.items() if name not in has}
    if not missing:
        return state
    shardings = jax.tree.map(lambda leaf: leaf.sharding, missing)

    def build(params: Any) -> dict[str, Any]:
        extra = initial(params)
        return {name: extra[name] for name in missing}

    return state._replace(extra={**state.extra, **jax.jit(build, out_shardings=shardings)(state.params)})


def next_average(
    config: EmaConfig, extra: Mapping[str, Any], params: Any, num_accepted: jax.Array, accepted: jax.Array
) -> dict[str, Any]:
    """Return State.extra after a step: a skipped one leaves the average as it was, bit for bit.

    Args:
        config: train.ema, switched on.
        extra: State.extra before the step, with an average.
        params: Trained parameters after the step.
        num_accepted: int32 []: accepted steps before this one.
        accepted: bool []: whether the step's update was made.
    """
    n = num_accepted.astype(jnp.float32)
    decay = jnp.minimum(config.decay, (n + 1) / (n + 10))

    def average(old: jax.Array, param: jax.Array) -> jax.Array:
        # As a difference: exact where the parameter does not change, and one rounding less than two products.
        new = old + (1 - decay).astype(old.dtype) * (param.astype(old.dtype) - old)
        return jnp.where(accepted, new, old)

    return {**extra, NAME: jax.tree.map(average, extra[NAME], params)}


def averaged(state: State) -> State:
    """Return the state with the average in place of the trained parameters, in their dtype."""
    params = jax.tree.map(lambda average, param: average.astype(param.dtype), state.extra[NAME], state.params)
    return state._replace(params=params)


def on_average(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return a function of a state, and of more, that gets the averaged state."""

    def on_averaged(state: State, *rest: Any) -> _Result:
        return function(averaged(state), *rest)

    return on_averaged


def _dtype(param: jax.Array) -> jnp.dtype:
    # A step of 1 - decay is below the resolution of bfloat16: such an average would stand still.
    return jnp.promote_types(param.dtype, jnp.float32)
