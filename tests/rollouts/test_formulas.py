"""Formulas of PPO, GRPO and RLOO: published values, and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.rollouts.clipped import (
    clipped_policy_losses,
    clipped_value_losses,
    generalized_advantages,
    token_rewards,
)
from tlx.rollouts.grpo import group_advantages, sequence_log_ratios
from tlx.rollouts.kl import adapt_beta, k1, k2, k3
from tlx.rollouts.rloo import leave_one_out_advantages
from tlx.rollouts.whitening import whiten

# Answers of 4, 1 and 7 tokens; what stands behind them must not count.
MASK = (np.arange(7) < np.array([4, 1, 7])[:, None]).astype(np.float32)
RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=MASK.shape).astype(np.float32)
VALUES = RNG.normal(size=MASK.shape).astype(np.float32)


def row(*values):
    return jnp.array([values], jnp.float32)


def test_advantages_have_their_published_values():
    ones = row(1, 1, 1)
    advantages, returns = generalized_advantages(row(0, 0, 1), row(0.2, 0.4, 0.6), ones, 1.0, 0.95)
    np.testing.assert_allclose(advantages, row(0.751, 0.58, 0.4), atol=1e-6)
    np.testing.assert_allclose(returns, row(0.951, 0.98, 1.0), atol=1e-6)
    expected = row(1.214144, 0.020934, -1.235077)
    np.testing.assert_allclose(whiten(advantages, ones, unbiased=False), expected, atol=1e-5)


def test_losses_have_their_published_values():
    losses, clipped = clipped_policy_losses(jnp.array([1.0, -1.0]), jnp.log(jnp.array([1.5, 1.5])))
    np.testing.assert_allclose(losses, [-1.2, 1.5], rtol=1e-6)
    assert clipped.tolist() == [1.0, 0.0]
    assert float(clipped_value_losses(*map(jnp.float32, (0.9, 0.5, 1.0)))) == pytest.approx(0.045, rel=1e-5)


def test_estimates_of_the_divergence_have_their_published_values():
    d = jnp.float32(0.3)
    assert [float(k(d)) for k in (k1, k2, k3)] == pytest.approx([0.3, 0.045, 0.0408182], rel=1e-5)
    assert float(adapt_beta(jnp.float32(0.15), jnp.float32(9), 6.0, 512)) == pytest.approx(0.151536, rel=1e-6)
    # Of a KL far below the target the error is clipped too.
    assert float(adapt_beta(jnp.float32(0.15), jnp.float32(0), 6.0, 512)) == pytest.approx(0.148464, rel=1e-6)


def test_groups_have_their_published_values():
    rewards = jnp.array([[1.0, 0, 0], [1, 1, 0]])
    expected = [[1.154501, -0.577250, -0.577250], [0.577250, 0.577250, -1.154501]]
    np.testing.assert_allclose(group_advantages(rewards), expected, atol=1e-6)
    np.testing.assert_allclose(
        leave_one_out_advantages(rewards), [[1, -0.5, -0.5], [0.5, 0.5, -1]], atol=1e-6
    )
    np.testing.assert_allclose(leave_one_out_advantages(row(1, 4, 2)[0][None]), [[-2, 2.5, -0.5]], atol=1e-6)
    assert not np.any(group_advantages(jnp.full((1, 4), 0.3)))


@pytest.mark.parametrize("scale", ["none", "batch"])
def test_groups_may_be_scaled_by_the_batch_or_not_at_all(scale):
    centred = REWARDS - REWARDS.mean(axis=1, keepdims=True)
    divisor = 1.0 if scale == "none" else REWARDS.std(ddof=1) + 1e-4
    np.testing.assert_allclose(group_advantages(jnp.array(REWARDS), scale), centred / divisor, atol=1e-6)


@pytest.mark.parametrize(("discount", "decay"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0)])
def test_advantages_are_the_sum_over_all_later_tokens(discount, decay):
    """The sum of (discount decay)^l delta_{t + l}, token by token."""
    expected = np.zeros(MASK.shape)
    for b, length in enumerate(MASK.sum(axis=1).astype(int)):
        values = np.append(VALUES[b, :length], 0.0)
        deltas = REWARDS[b, :length] + discount * values[1:] - values[:-1]
        for t in range(length):
            expected[b, t] = sum((discount * decay) ** (s - t) * deltas[s] for s in range(t, length))
    padded = [jnp.array(np.where(MASK > 0, values, np.nan)) for values in (REWARDS, VALUES)]
    advantages, returns = generalized_advantages(*padded, jnp.array(MASK), discount, decay)
    np.testing.assert_allclose(advantages, expected, atol=1e-5)
    np.testing.assert_allclose(returns, expected + VALUES * MASK, atol=1e-5)


@pytest.mark.parametrize("unbiased", [True, False])
def test_whitening_is_over_the_tokens_of_all_answers(unbiased):
    real = REWARDS[MASK > 0].astype(np.float64)
    std = np.sqrt(real.var(ddof=int(unbiased)) + 1e-8)
    values = jnp.array(np.where(MASK > 0, REWARDS, np.inf))
    whitened = whiten(values, jnp.array(MASK), unbiased=unbiased)
    np.testing.assert_allclose(whitened, np.where(MASK > 0, (REWARDS - real.mean()) / std, 0), atol=1e-5)
    scaled = whiten(values, jnp.array(MASK), shift_mean=False, unbiased=unbiased)
    np.testing.assert_allclose(np.asarray(scaled)[MASK > 0].mean(), real.mean(), atol=1e-6)


def test_the_score_is_the_last_tokens():
    log_ratio = jnp.array(np.where(MASK > 0, VALUES, np.nan))
    rewards = token_rewards(jnp.array([1.0, 2, 3]), log_ratio, jnp.array(MASK), 0.1)
    expected = np.where(MASK > 0, -0.1 * VALUES, 0)
    expected[[0, 1, 2], [3, 0, 6]] += [1, 2, 3]
    np.testing.assert_allclose(rewards, expected, atol=1e-6)


def test_bounds_of_the_ratio_may_differ():
    """DAPO's clip: what is likelier than before may rise further."""
    ratios = jnp.array([0.5, 0.75, 1.25, 1.5])
    losses, clipped = clipped_policy_losses(jnp.ones(4), jnp.log(ratios), 0.2, 0.28)
    np.testing.assert_allclose(losses, [-0.5, -0.75, -1.25, -1.28], rtol=1e-6)
    assert clipped.tolist() == [0, 0, 0, 1]
    losses, clipped = clipped_policy_losses(-jnp.ones(4), jnp.log(ratios), 0.2, 0.28)
    np.testing.assert_allclose(losses, [0.8, 0.8, 1.25, 1.5], rtol=1e-6)
    assert clipped.tolist() == [1, 1, 0, 0]


def test_at_a_ratio_of_one_the_gradient_is_that_of_reinforce():
    advantages = jnp.array([1.5, -0.5])
    gradient = jax.grad(lambda x: clipped_policy_losses(advantages, x)[0].sum())(jnp.zeros(2))
    np.testing.assert_allclose(gradient, -advantages)


def test_ratios_of_answers_are_geometric_means():
    log_ratio = jnp.array(np.where(MASK > 0, VALUES, np.nan))
    expected = [VALUES[b, :n].mean() for b, n in enumerate((4, 1, 7))]
    np.testing.assert_allclose(sequence_log_ratios(log_ratio, jnp.array(MASK)), expected, atol=1e-6)


def test_estimates_are_unbiased_and_k3_is_positive():
    """The expectation over all outcomes of a distribution, not over samples."""
    policy = jax.nn.log_softmax(jnp.array(VALUES[0]))
    reference = jax.nn.log_softmax(jnp.array(REWARDS[0]))
    d = policy - reference
    divergence = float(jnp.sum(jnp.exp(policy) * d))
    assert float(jnp.sum(jnp.exp(policy) * k3(d))) == pytest.approx(divergence, abs=1e-5)
    assert bool(jnp.all(k3(d) >= 0)) and float(k3(jnp.float32(1e-4))) == pytest.approx(5e-9, rel=0.05)
