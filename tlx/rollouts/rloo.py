"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024): the mean reward of the other answers to a prompt.

K is the number of answers to a prompt.
"""

import jax
import jax.numpy as jnp


def leave_one_out_advantages(rewards_BK: jax.Array) -> jax.Array:
    """Compute r_i minus the mean of the other rewards of its group, K > 1 (their eq. 9)."""
    rewards_BK = rewards_BK.astype(jnp.float32)
    count = rewards_BK.shape[1]
    others_BK = (jnp.sum(rewards_BK, axis=1, keepdims=True) - rewards_BK) / (count - 1)
    return rewards_BK - others_BK
