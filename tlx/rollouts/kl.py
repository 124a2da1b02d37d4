"""Estimates of the divergence from a reference on samples of the policy, and the coefficient that follows it.

With d = log pi(y) - log ref(y) of samples y of pi, E[k1] = E[k3] = KL(pi || ref); k3 is never negative and has the
smaller variance where the two are close. k2 is biased, and its gradient is that of the KL (Schulman 2020).
"""

import jax
import jax.numpy as jnp


def k1(log_ratio: jax.Array) -> jax.Array:
    """Return d, unbiased and of any sign."""
    return log_ratio


def k2(log_ratio: jax.Array) -> jax.Array:
    """Return d^2 / 2, biased and never negative."""
    return jnp.square(log_ratio) / 2


def k3(log_ratio: jax.Array) -> jax.Array:
    """Return e^-d - 1 + d, unbiased and never negative."""
    # expm1: for small d the difference of e^-d and 1 would be rounded away in float32.
    return jnp.expm1(-log_ratio) + log_ratio


def adapt_beta(
    beta: jax.Array, kl: jax.Array, target: float, num_episodes: int, horizon: float = 10_000.0
) -> jax.Array:
    """Compute the next coefficient of the KL, which keeps the KL near a target.

        e = clip(kl / target - 1, -0.2, 0.2),  beta (1 + e n / horizon)

    Ziegler et al. 2019, section 2.2, as their code has it (lm_human_preferences/train_policy.py).

    Args:
        beta: Coefficient of the batch.
        kl: KL of the batch, in nats an answer.
        target: KL to keep, in nats an answer.
        num_episodes: n, answers of the batch.
        horizon: Answers over which the coefficient changes by the factor of the error.

    Returns:
        Coefficient of the next batch.
    """
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    return beta * (1 + error * num_episodes / horizon)
