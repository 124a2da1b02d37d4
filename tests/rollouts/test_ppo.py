"""PPO: the first update's ratio and KL, losses against numpy, the whole step's statistics, the reward run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rollouts.tiny import COUNT, module_of, params_of, prompts_of, spec_of, state_of
from tests.tasks import small
from tlx.base.errors import ConfigError
from tlx.parallel import MeshConfig, make_mesh
from tlx.rollouts import TABLE
from tlx.rollouts.ppo import TEXT, advantages_and_returns
from tlx.rollouts.reward_run import log_odds
from tlx.rollouts.rewards import SampledAnswer
from tlx.rollouts.step import RolloutStep, make_sample, minibatch_indices

SEVERAL = {"epochs": 2, "minibatches": 2, "beta": 0.1}


@functools.cache
def sampled_by_start(value="head"):
    """A batch that the reference itself has sampled, with rewards."""
    config = SEVERAL | {"value": value}
    params = params_of("ppo", **config)
    state = state_of(params=params)._replace(frozen={"reference": {"model": params["model"]}})
    sample = jax.jit(make_sample(module_of("ppo", **config), spec_of("ppo", **config)))
    batch, _ = sample(state, prompts_of("ppo", **config))
    rewards = np.random.default_rng(3).normal(size=(4, COUNT))
    batch |= {"reward": jnp.array(rewards, jnp.float32)}
    learned = TABLE.load("ppo").learned(spec_of("ppo", **config).config, batch, {})
    return state, batch | learned.arrays, learned.metrics


@functools.partial(jax.jit, static_argnums=0)
def terms_of(module, params, batch):
    return module.apply({"params": params}, batch)[0]


@pytest.mark.slow
@pytest.mark.parametrize("value", ["head", pytest.param("network", marks=pytest.mark.slow)])
def test_the_first_update_has_ratio_one_and_no_kl(value):
    """Exactly, though a minibatch is computed with other rows than the samples were."""
    state, batch, metrics = sampled_by_start(value)
    assert float(metrics["kl"]) == 0.0
    assert float(metrics["penalised_reward"]) == float(jnp.mean(batch["reward"]))
    order = minibatch_indices(jnp.uint32(1), jnp.int32(0), 4, 2, 2)
    part = {name: jnp.take(values, order[0], axis=0) for name, values in batch.items()}
    terms = terms_of(module_of("ppo", **SEVERAL, value=value), state.params, part)
    weights = np.asarray(part["weights"])
    advantages = jnp.sum(jnp.where(weights > 0, -part["advantages"], 0.0))
    assert float(terms["loss"].sum) == float(advantages)
    assert float(terms["clip_fraction"].sum) == 0
    # In a later update the ratio is that of the policies, 1 but for rounding.
    later = terms_of(
        module_of("ppo", **SEVERAL, value=value), state.params, part | {"first_update": jnp.zeros(2)}
    )
    assert float(later["loss"].sum) == pytest.approx(float(advantages), abs=1e-4)


@pytest.mark.slow
def test_losses_are_numpys():
    """The policy's and the values', both clipped, and the text's beside them."""
    config = SEVERAL | {"pretraining_weight": 2.0, "pretraining_rows": 2, "value_clip": 0.05}
    state, batch, _ = sampled_by_start()
    rng = np.random.default_rng(5)
    noise = jnp.array(0.3 * rng.normal(size=batch["weights"].shape), jnp.float32) * batch["weights"]
    batch = batch | {"old_log_probs": batch["old_log_probs"] + noise, "first_update": jnp.zeros(4)}
    batch["returns"] = batch["returns"] + noise
    new_values = np.asarray(batch["old_values"], np.float64)
    batch["old_values"] = batch["old_values"] + noise
    text = prompts_of("ppo", **config)
    text = {key: values for key, values in text.items() if key.startswith(TEXT)}
    shape = text[TEXT + "tokens"].shape
    for name in ("tokens", "targets"):
        text[TEXT + name] = jnp.array(rng.integers(0, 250, shape), jnp.int32)
    text[TEXT + "segments"] = jnp.ones(shape, jnp.int32)
    text[TEXT + "positions"] = jnp.broadcast_to(jnp.arange(shape[-1]), shape).astype(jnp.int32)
    text[TEXT + "weights"] = jnp.array(rng.integers(0, 2, shape), jnp.float32)
    module = module_of("ppo", **config)
    terms = terms_of(module, state.params, batch | text)
    weights = np.asarray(batch["weights"], np.float64)
    ratio = np.exp(-np.asarray(noise, np.float64))
    advantages = np.asarray(batch["advantages"], np.float64)
    losses = -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)
    assert float(terms["loss"].sum) == pytest.approx((losses * weights).sum(), abs=1e-3)
    assert float(terms["loss"].weight) == weights.sum()
    old, returns = (np.asarray(batch[name], np.float64) for name in ("old_values", "returns"))
    near = np.clip(new_values, old - 0.05, old + 0.05)
    squares = 0.5 * np.maximum(np.square(new_values - returns), np.square(near - returns)) * weights
    assert float(terms["value_loss"].sum) == pytest.approx(squares.sum(), rel=1e-4)
    assert terms["value_loss"].loss_weight == 0.1
    rows = {key.removeprefix(TEXT): values.reshape(-1, shape[-1]) for key, values in text.items()}
    clm = small.module_of("generation", "decoder", small.TABLE.load("generation").config_class())
    expected = terms_of(clm, {"model": state.params["model"]}, rows)["loss"]
    assert float(terms["pretraining_loss"].sum) == pytest.approx(float(expected.sum), rel=1e-5)
    assert terms["pretraining_loss"].loss_weight == 2.0


@pytest.mark.slow
def test_advantages_are_of_the_whole_step_on_any_mesh():
    _, batch, _ = sampled_by_start()
    config = dataclasses.replace(spec_of("ppo", **SEVERAL).config, whiten_rewards=True)
    whole, kl = advantages_and_returns(config, batch, jnp.float32(0.1))
    weights = np.asarray(batch["weights"]) > 0
    assert np.asarray(whole["advantages"])[weights].mean() == pytest.approx(0, abs=1e-5)
    assert np.asarray(whole["advantages"])[weights].std(ddof=1) == pytest.approx(1, abs=1e-4)
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    names = ("weights", "reward", "old_values", "old_log_probs", "reference_log_probs")
    sharded = {name: jax.device_put(batch[name], sharding) for name in names}
    spread, _ = jax.jit(functools.partial(advantages_and_returns, config))(sharded, jnp.float32(0.1))
    for name, values in whole.items():
        np.testing.assert_allclose(spread[name], values, atol=2e-6)
    # What stands behind the answers is not read.
    other = batch | {"old_values": jnp.where(weights, batch["old_values"], 1e9)}
    np.testing.assert_array_equal(
        advantages_and_returns(config, other, jnp.float32(0.1))[0]["advantages"], whole["advantages"]
    )
    half = {name: values[:2] for name, values in batch.items()}
    alone = advantages_and_returns(config, half, jnp.float32(0.1))[0]["advantages"]
    assert float(jnp.max(jnp.abs(alone - whole["advantages"][:2]))) > 1e-3


@pytest.mark.slow
def test_the_coefficient_follows_the_kl():
    _, batch, _ = sampled_by_start()
    task = TABLE.load("ppo")
    config = dataclasses.replace(spec_of("ppo", **SEVERAL).config, kl_target=6.0, kl_horizon=100.0)
    extra = task.initial_extra(config)
    assert {name: float(value) for name, value in extra.items()} == {"ppo_beta": pytest.approx(0.1)}
    learned = task.learned(config, batch, extra)
    # A KL of 0 is far below the target: the error is clipped to -0.2, for the 12 answers of the step.
    assert float(learned.extra["ppo_beta"]) == pytest.approx(0.1 * (1 - 0.2 * 12 / 100), rel=1e-5)
    far = batch | {"reference_log_probs": batch["reference_log_probs"] - 30.0 * batch["weights"]}
    assert float(task.learned(config, far, extra).extra["ppo_beta"]) > 0.1
    fixed = dataclasses.replace(config, kl_target=None)
    assert task.initial_extra(fixed) == {} and task.learned(fixed, batch, {}).extra == {}


def test_values_start_from_zero_or_from_a_model():
    head = params_of("ppo", **SEVERAL)
    module = module_of("ppo", **SEVERAL)
    begun = module.begin(head, {})
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(begun["heads"]))
    config = SEVERAL | {"value": "network"}
    network = params_of("ppo", **config)
    frozen = {"reference": {"model": jax.tree.map(lambda leaf: leaf + 1, network["model"])}}
    begun = module_of("ppo", **config).begin(network, frozen)
    for leaf, other in zip(
        jax.tree.leaves(begun["heads"]["value"]["model"]), jax.tree.leaves(frozen), strict=True
    ):
        np.testing.assert_array_equal(leaf, other)


def test_unfinished_answers_have_a_score_of_their_own():
    answers = [SampledAnswer("", text, ("4",), ended, {}) for text, ended in (("4", True), ("4", False))]
    for config, expected in (
        ({}, [1, 0]),
        ({"unfinished_reward": -1.0}, [1, -1]),
        ({"unfinished_penalty": 0.5}, [1, -0.5]),
        ({"unfinished_reward": -1.0, "unfinished_penalty": 0.5}, [1, -1.5]),
    ):
        step = RolloutStep(None, None, spec_of("ppo", **config), [], jnp.asarray)
        assert step.rewards(answers, {}).tolist() == expected


def test_log_odds_of_a_class():
    logits = jnp.array([[0.3, -1.0, 2.0], [1e3, 0.0, 0.0]])
    p = jax.nn.softmax(logits[0])
    expected = np.log(p / (1 - p))
    assert [float(log_odds(logits[:1], c, False)[0]) for c in range(3)] == pytest.approx(
        expected.tolist(), rel=1e-5
    )
    assert float(log_odds(logits, 0, False)[1]) == pytest.approx(1e3 - np.log(2), rel=1e-6)
    assert float(log_odds(logits, 2, True)[0]) == 2.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_answers": 0}, "objective.num_answers = 0 must be 1 or more"),
        ({"gae_lambda": 1.1}, "objective.gae_lambda = 1.1 from 0 to 1"),
        ({"kl_target": 6.0, "beta": 0.0}, "objective.kl_target = 6.0 must be above 0, and objective.beta"),
        ({"value": "network", "beta": 0.0}, "which objective.beta = 0 has not"),
        ({"value_start": "reward_run"}, "needs an objective.reward_run"),
        ({"reward_label": "1"}, "objective.reward_label = '1' is a class of objective.reward_run"),
        ({"reward_run": "x", "reward": "number"}, "rewards come from one of the two"),
        ({"reward_text": "{prompt}"}, "must have '{answer}' in it"),
        ({"unfinished_penalty": -1.0}, "objective.unfinished_penalty = -1.0 must be 0 or more"),
        ({"pretraining_rows": 0}, "objective.pretraining_rows = 0 1 or more"),
    ],
)
def test_wrong_values_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        spec_of("ppo", **wrong)


def test_a_mix_with_pretraining_is_for_decoders():
    with pytest.raises(ConfigError, match="is for decoders; the model is 'encoder_decoder'"):
        TABLE.load("ppo").check_spec(spec_of("ppo", "encoder_decoder", pretraining_weight=1.0))
