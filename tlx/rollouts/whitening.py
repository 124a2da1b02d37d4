"""Whitening: values over the tokens of all answers of a batch, brought to mean 0 and variance 1."""

import jax
import jax.numpy as jnp

_EPS = 1e-8  # below the root, as in lm-human-preferences, TRL and Tunix


def whiten(
    values_BT: jax.Array, mask_BT: jax.Array, shift_mean: bool = True, unbiased: bool = True
) -> jax.Array:
    """Divide values by their standard deviation over the masked tokens, (x - mean) / sqrt(var + 1e-8).

    Args:
        values_BT: Values of the global batch, so that mesh and minibatches change nothing.
        mask_BT: 1 for tokens of an answer; what stands elsewhere is not read.
        shift_mean: Whether the mean becomes 0 (advantages) or stays (rewards).
        unbiased: Divide the variance by n - 1 (TRL, Tunix) and not by n (Ziegler et al. 2019).

    Returns:
        float32 [B, T], 0 where the mask is 0.
    """
    real_BT = mask_BT > 0
    values_BT = jnp.where(real_BT, values_BT, 0.0).astype(jnp.float32)
    count = jnp.sum(real_BT)
    mean = jnp.sum(values_BT) / jnp.maximum(count, 1)
    squares = jnp.sum(jnp.where(real_BT, jnp.square(values_BT - mean), 0.0))
    variance = squares / jnp.maximum(count - 1 if unbiased else count, 1)
    whitened_BT = (values_BT - mean) * jax.lax.rsqrt(variance + _EPS)
    if not shift_mean:
        whitened_BT += mean
    return jnp.where(real_BT, whitened_BT, 0.0)
