"""Group relative policy optimisation: the other answers to a prompt take the place of a value network.

DeepSeekMath (Shao et al. 2024, section 4.1) and its relatives. K is the number of answers to a prompt.
"""

from typing import Literal

import jax
import jax.numpy as jnp

_EPS = 1e-4  # added to the standard deviation, as in TRL

Scale = Literal["group", "batch", "none"]
"""What advantages are divided by: the standard deviation of the rewards of the group, or of the batch, or nothing
(Dr. GRPO, Liu et al. 2025: division weighs easy and hard prompts more)."""


def group_advantages(rewards_BK: jax.Array, scale: Scale = "group") -> jax.Array:
    """Compute (r - mean of the group) / (std + 1e-4), with the unbiased standard deviation.

    Args:
        rewards_BK: Rewards of the global batch.
        scale: What is divided by.

    Returns:
        float32 [B, K]; 0 for groups whose rewards are all equal.
    """
    rewards_BK = rewards_BK.astype(jnp.float32)
    centred_BK = rewards_BK - jnp.mean(rewards_BK, axis=1, keepdims=True)
    if scale == "none":
        return centred_BK
    dim = 1 if scale == "group" else None
    return centred_BK / (jnp.std(rewards_BK, axis=dim, ddof=1, keepdims=True) + _EPS)


def sequence_log_ratios(log_ratio_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Average log-ratios over the tokens of an answer, for GSPO (Zheng et al. 2025, eq. 7).

    Args:
        log_ratio_BT: log pi - log pi_old of each token.
        mask_BT: 1 for tokens of the answer.

    Returns:
        [B], 0 for an answer without tokens.
    """
    sums_B = jnp.sum(jnp.where(mask_BT > 0, log_ratio_BT, 0.0), axis=1)
    return sums_B / jnp.maximum(jnp.sum(mask_BT > 0, axis=1), 1)
