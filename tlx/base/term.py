"""Losses and metrics as (sum, weight) pairs, which add up over shards and microbatches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Term(NamedTuple):
    """A loss or a metric as a sum and the weight by which it is divided once, at the end."""

    sum: jax.Array
    """float32 [], weighted sum over examples."""
    weight: jax.Array
    """float32 [], sum of the weights."""
    loss_weight: float = 0.0
    """Coefficient of the mean in the loss that is minimised; 0: a metric."""


Terms = dict[str, Term]


def mean(term: Term) -> jax.Array:
    """Return sum / weight, and 0 where the weight is 0."""
    return jnp.where(term.weight > 0, term.sum / jnp.maximum(term.weight, 1e-9), 0.0)
