"""Formulas of proximal policy optimisation: rewards and advantages of tokens, the clipped losses.

Schulman et al. 2017 and 2016 (GAE); for language models Ziegler et al. 2019, Stiennon et al. 2020, Ouyang et al.
2022. An answer's tokens stand from column 0 of [B, T] on; the value of token t is read at the position before it, as
its logits are.
"""

import jax
import jax.numpy as jnp


def token_rewards(
    score_B: jax.Array, log_ratio_BT: jax.Array, mask_BT: jax.Array, beta: jax.Array | float
) -> jax.Array:
    """Compute R_t = -beta k1_t for each token, with the score of the answer added to its last one.

    Args:
        score_B: Score of each answer.
        log_ratio_BT: log pi_old - log ref of each token.
        mask_BT: 1 for tokens of the answer, from column 0 on.
        beta: Coefficient of the KL.

    Returns:
        float32 [B, T], 0 behind the answer.
    """
    last_B = jnp.sum(mask_BT > 0, axis=1) - 1
    is_last_BT = jnp.arange(mask_BT.shape[1]) == last_B[:, None]
    penalty_BT = jnp.where(mask_BT > 0, -beta * log_ratio_BT, 0.0)
    return penalty_BT + jnp.where(is_last_BT, score_B[:, None], 0.0)


def generalized_advantages(
    rewards_BT: jax.Array,
    values_BT: jax.Array,
    mask_BT: jax.Array,
    discount: float = 1.0,
    decay: float = 0.95,
) -> tuple[jax.Array, jax.Array]:
    """Compute generalised advantage estimates and the returns that values learn.

        delta_t = R_t + discount V_{t+1} - V_t,  A_t = delta_t + discount decay A_{t+1},  G_t = A_t + V_t

    with 0 for V and A behind the end (Schulman et al. 2016, eqs. 11 to 16).

    Args:
        rewards_BT: Rewards of tokens.
        values_BT: Values of the policy that sampled.
        mask_BT: 1 for tokens of the answer, from column 0 on.
        discount: gamma, 0 to 1.
        decay: lambda, 0 to 1.

    Returns:
        (A, G), float32 [B, T] each, 0 behind the answer.
    """
    real_BT = mask_BT > 0
    rewards_BT = jnp.where(real_BT, rewards_BT, 0.0).astype(jnp.float32)
    values_BT = jnp.where(real_BT, values_BT, 0.0).astype(jnp.float32)
    next_BT = jnp.pad(values_BT[:, 1:], ((0, 0), (0, 1)))
    deltas_BT = rewards_BT + discount * next_BT - values_BT

    def add(advantage_B: jax.Array, delta_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        advantage_B = delta_B + discount * decay * advantage_B
        return advantage_B, advantage_B

    # Behind the answer all deltas are 0, and so is what the sum from the right begins with.
    _, advantages_TB = jax.lax.scan(add, jnp.zeros_like(deltas_BT[:, 0]), deltas_BT.T, reverse=True)
    advantages_BT = advantages_TB.T
    return advantages_BT, advantages_BT + values_BT


def clipped_policy_losses(
    advantages: jax.Array, log_ratio: jax.Array, clip: float = 0.2, clip_high: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """Compute max(-A rho, -A clip(rho, 1 - clip, 1 + clip_high)) with rho = exp(log_ratio).

    Schulman et al. 2017, eq. 7; two bounds as in DAPO (Yu et al. 2025, eq. 8).

    Args:
        advantages: A, of any shape.
        log_ratio: log pi - log pi_old of tokens or answers, of a shape that A is broadcast to.
        clip: How far rho may fall below 1.
        clip_high: How far rho may rise above 1; None: as far.

    Returns:
        Losses, and 1.0 where the clipped one is the larger, without a gradient.
    """
    ratio = jnp.exp(log_ratio)
    high = clip if clip_high is None else clip_high
    free = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1 - clip, 1 + high)
    return jnp.maximum(free, clipped), jax.lax.stop_gradient((clipped > free).astype(jnp.float32))


def clipped_value_losses(
    values: jax.Array, old_values: jax.Array, returns: jax.Array, clip: float = 0.2
) -> jax.Array:
    """Compute 0.5 max((V - G)^2, (clip(V, V_old - clip, V_old + clip) - G)^2).

    Args:
        values: V, of any shape.
        old_values: V of the policy that sampled, of the same shape.
        returns: G, of the same shape.
        clip: How far values may move from the old ones before they count as they were clipped.

    Returns:
        Losses of the same shape.
    """
    near = jnp.clip(values, old_values - clip, old_values + clip)
    return 0.5 * jnp.maximum(jnp.square(values - returns), jnp.square(near - returns))
