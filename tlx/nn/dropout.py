"""Dropout whose mask belongs to the row, so that microbatches, packing and meshes do not change it.

Every dropout site inside a layer has a number, from which its bits are drawn. The numbers below are part of
the function that a seed trains: they must never change.
"""

import jax
import jax.numpy as jnp

# Sites of a layer.
ATTENTION_OUTPUT = 0
CROSS_ATTENTION_OUTPUT = 1
FEEDFORWARD_OUTPUT = 2
ATTENTION_PROBABILITIES = 3
CROSS_ATTENTION_PROBABILITIES = 4
FEEDFORWARD_HIDDEN = 5
# XLNet's query stream: the output of its attention; its other sites are those above plus QUERY_STREAM_OFFSET.
QUERY_STREAM_OUTPUT = 6
QUERY_STREAM_OFFSET = 7
# DeBERTa's table of distances, as each layer reads it.
DISTANCES = 20
# Inputs of low-rank adapters, seven sites each: those of a layer, and those of its cross-attention.
LOW_RANK = 32
CROSS_LOW_RANK = 40

# Sites outside the layers. Their keys are another branch, so that numbers may repeat.
EMBEDDING = 0
FINAL = 1
CONVOLUTION = 2


def fold(keys_B: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """Fold a site or layer number into the key of every row; None stays None."""
    return None if keys_B is None else jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None, site: int) -> jax.Array:
    """Zero a fraction of x[B, ...] and scale the rest.

    Args:
        x: float[B, ...].
        rate: probability with which an entry is zeroed, in [0, 1).
        keys_B: one PRNG key for each row; None turns dropout off.
        site: number of the site inside the layer, so that each draws bits of its own.

    Returns:
        An array like x; x itself where rate is 0 or there are no keys.
    """
    if keys_B is None or rate == 0.0:
        return x
    keys_B = fold(keys_B, site)
    # One key a row: a row draws the same bits in any batch, on any device.
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys_B)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
