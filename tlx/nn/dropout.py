"""Dropout whose mask belongs to the row: microbatching, packing and meshes do not change it."""

import jax
import jax.numpy as jnp


def fold(keys_B: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """A new key for every row, by site or layer number."""
    return None if keys_B is None else jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None, site: int) -> jax.Array:
    """Zeroes a share `rate` of x[B, ...] and scales the rest; `keys_B=None` or rate 0 returns x.

    `site` numbers the places inside a layer, so that each draws its own bits.
    """
    if keys_B is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(fold(keys_B, site))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
