"""Mixout against numpy: what a step computes with, its gradient, and that nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.toy import Toy, batch_at
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.training.config import TrainConfig
from tlx.training.ema import initial_extra
from tlx.training.mixout import NAME, Mixing
from tlx.training.state import init_state
from tlx.training.step import make_step

P = 0.6


def values(seed, shape=(60, 50)):
    rng = np.random.default_rng(seed)
    draw = lambda: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"model": {"layer": {"kernel": draw(), "bias": draw()}}, "heads": {"task": {"kernel": draw()}}}


def test_entries_are_the_base_models_or_further_from_it_and_their_mean_is_the_parameter():
    base, params = values(0), values(1)
    extra = initial_extra(TrainConfig(mixout=P), base)
    assert list(tree.flatten(extra)) == [f"{NAME}/model/layer/kernel"]
    u, w = base["model"]["layer"]["kernel"], params["model"]["layer"]["kernel"]
    mixed = [Mixing(P, extra, jnp.uint32(3), jnp.int32(k)).mixed(params) for k in range(400)]
    for tree_of_step in mixed[:2]:
        found = tree_of_step["model"]["layer"]["kernel"]
        is_base = np.asarray(found == u)
        np.testing.assert_allclose(
            np.where(is_base, u + (w - u) / (1 - P), found), u + (w - u) / (1 - P), 1e-5
        )
        assert abs(is_base.mean() - P) < 0.03
        assert tree_of_step["model"]["layer"]["bias"] is params["model"]["layer"]["bias"]
        assert tree_of_step["heads"]["task"]["kernel"] is params["heads"]["task"]["kernel"]
    mean = np.mean([step["model"]["layer"]["kernel"] for step in mixed], axis=0)
    # In units of the standard deviation of the mean of 400 draws.
    errors = (mean - np.asarray(w)) / (np.abs(w - u) * (P / (1 - P) / 400) ** 0.5)
    assert abs(errors.mean()) < 0.1 and abs(errors.std() - 1) < 0.1


def test_the_gradient_is_that_of_the_mixture():
    base, params = values(0, (4, 3)), values(1, (4, 3))
    mixing = Mixing(P, initial_extra(TrainConfig(mixout=P), base), jnp.uint32(3), jnp.int32(5))

    def loss(tree_of_mixture):
        return sum(jnp.sum(jnp.sin(2 * leaf)) for leaf in jax.tree.leaves(tree_of_mixture))

    wanted = jax.grad(lambda params: loss(mixing.mixed(params)))(params)
    found = mixing.through(jax.grad(loss)(mixing.mixed(params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)


@pytest.mark.slow
def test_a_step_with_microbatches_is_the_step_and_the_base_stays():
    """The toy's parameters are no kernels of a model: renamed, both steps train the same."""
    states = {}
    for count in (1, 2):
        config = TrainConfig(mixout=P, microbatches=count)
        schedule = optax.constant_schedule(3e-2)
        optimizer = optax.sgd(schedule)
        module = Toy(memory=False)
        state = init_state(module, optimizer, batch_at(0), 8, seed=1)

        class Renamed:
            def apply(self, variables, *args, module=module, **kwargs):
                params = {"kernel": variables["params"]["model"]["kernel"], "out": variables["params"]["out"]}
                return module.apply({"params": params}, *args, **kwargs)

            def initial_carry(self, batch_size):
                return None

        params = {"model": {"kernel": state.params["kernel"]}, "out": state.params["out"]}
        state = state._replace(params=params, opt_state=optimizer.init(params))
        state = state._replace(extra=initial_extra(config, params))
        base = jax.device_get(state.extra)
        step = jax.jit(make_step(Renamed(), optimizer, schedule, config), donate_argnums=0)
        for k in range(3):
            state, _ = step(state, batch_at(k))
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.extra), base)
        states[count] = jax.device_get(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), states[1], states[2])


def test_a_probability_of_one_is_an_error():
    with pytest.raises(ConfigError, match=r"train\.mixout = 1\.0 must be at least 0 and below 1"):
        TrainConfig(mixout=1.0).validate()
