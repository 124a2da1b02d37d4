"""The updates of a step keep what those of any other run keep: averages, observed values, counts of skipped steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tlx.base.term import Term
from tlx.rollouts.base import Learned, RolloutConfig, RolloutTask
from tlx.rollouts.step import make_updates, minibatch_indices
from tlx.training.config import EmaConfig, TrainConfig
from tlx.training.ema import initial_extra
from tlx.training.state import State
from tlx.training.step import make_step

DECAY = 0.9
RATE = 0.1
CONFIG = RolloutConfig(epochs=2, minibatches=2)
TRAIN = TrainConfig(batch_size=4, clip_norm=None, layer_norms=True, ema=EmaConfig(DECAY))


class Target:
    """A layer that approaches the mean advantage, with a range that every use moves by 0.5."""

    def apply(self, variables, batch, carry, keys):
        del keys
        params = variables["params"]["model"]["decoder"]["blocks"]
        loss = 0.5 * jnp.sum(jnp.square(params["kernel"][0] - batch["advantages"]))
        # Its cotangent is the observation.
        observed = jnp.sum(params["input_range"] * jnp.array([0.5, 1.0]))
        observed -= jax.lax.stop_gradient(observed)
        return {"loss": Term(loss + observed, jnp.float32(1), 1.0)}, carry


class Task(RolloutTask):
    """Advantages are the rewards; the state has the number of steps."""

    def learned(self, config, batch, extra):
        del config
        return Learned({"advantages": batch["reward"][:, 0]}, extra={"steps": extra["steps"] + 1})


@functools.cache
def updates_of_a_step():
    def make_update(train):
        return make_step(Target(), optax.sgd(RATE), optax.constant_schedule(RATE), train)

    return jax.jit(make_updates(Task(), CONFIG, TRAIN, make_update))


def state_at(step):
    params = {"model": {"decoder": {"blocks": {"kernel": jnp.ones(1), "input_range": jnp.array([2.0, 7.0])}}}}
    zero = jnp.int32(0)
    extra = initial_extra(TRAIN, params) | {"steps": jnp.int32(step)}
    opt_state = optax.sgd(RATE).init(params)
    state = State(params, {}, opt_state, None, jnp.uint32(1), jnp.int32(step), zero, zero)
    return state._replace(extra=extra)


def batch_of(rewards):
    arrays = {"reward": rewards[:, None], "weights": np.ones((4, 1, 3)), "first_update": np.ones(4)}
    return {name: jnp.array(values, jnp.float32) for name, values in arrays.items()}


def layer_of(params):
    return params["model"]["decoder"]["blocks"]


def test_every_update_is_averaged_and_observed():
    rewards = np.array([0.0, 3.0, -1.0, 5.0])
    state, metrics = updates_of_a_step()(state_at(2), batch_of(rewards))
    kernel = average = 1.0
    norms = []
    for number, rows in enumerate(np.asarray(minibatch_indices(jnp.uint32(1), jnp.int32(2), 4, 2, 2))):
        gradient = np.sum(kernel - rewards[rows])
        norms.append(abs(gradient))
        kernel -= RATE * gradient
        n = 2 * 4 + number  # updates before this one
        decay = min(DECAY, (n + 1) / (n + 10))
        average = decay * average + (1 - decay) * kernel
    np.testing.assert_allclose(layer_of(state.params)["kernel"], [kernel], rtol=1e-6)
    np.testing.assert_allclose(layer_of(state.extra["ema"])["kernel"], [average], rtol=1e-6)
    np.testing.assert_array_equal(layer_of(state.params)["input_range"], [2 + 4 * 0.5, 7 + 4])
    np.testing.assert_allclose(metrics["grad_norm/decoder/00"], np.mean(norms), rtol=1e-6)
    assert int(state.step) == 3 and int(state.extra["steps"]) == 3 and int(metrics["skipped"]) == 0


def test_a_step_is_skipped_once_and_only_where_all_of_its_updates_are():
    order = np.asarray(minibatch_indices(jnp.uint32(1), jnp.int32(2), 4, 2, 2))
    before = state_at(2)
    skipped, metrics = updates_of_a_step()(before, batch_of(np.full(4, np.nan)))
    for part in ("params", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(skipped, part), getattr(before, part))
    jax.tree.map(np.testing.assert_array_equal, skipped.extra["ema"], before.extra["ema"])
    # The optimizer's schedule counts updates, and what leads to a rollback counts steps.
    assert int(skipped.skipped) == int(metrics["skipped"]) == 4
    assert int(skipped.skipped_in_a_row) == int(metrics["skipped_in_a_row"]) == 1
    assert np.isnan(metrics["loss"])
    again, _ = updates_of_a_step()(skipped._replace(step=before.step), batch_of(np.full(4, np.nan)))
    assert int(again.skipped_in_a_row) == 2
    rewards = np.zeros(4)
    rewards[order[-1][0]] = np.nan
    partly, metrics = updates_of_a_step()(again._replace(step=before.step), batch_of(rewards))
    # The last update is skipped, and so is that of the pass before which reads the same prompt.
    assert int(partly.skipped) == 8 + 2 and int(partly.skipped_in_a_row) == 0
    assert int(metrics["skipped_in_a_row"]) == 0 and np.isfinite(metrics["loss"])


def test_one_update_counts_as_several_do():
    one = dataclasses.replace(CONFIG, epochs=1, minibatches=1)
    step = make_updates(
        Task(), one, TRAIN, lambda train: make_step(Target(), optax.sgd(RATE), lambda n: RATE, train)
    )
    state, metrics = jax.jit(step)(state_at(2), batch_of(np.full(4, np.nan)))
    assert int(state.skipped) == int(state.skipped_in_a_row) == int(metrics["skipped_in_a_row"]) == 1
