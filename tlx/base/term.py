"""(sum, weight) pairs: what objectives and evaluations return, so that shards and microbatches add up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Term(NamedTuple):
    """A quantity as a float32 sum and the weight to divide it by, once, at the end.

    `scale` is its coefficient in the loss that is minimised; 0 makes it a metric.
    """

    sum: jax.Array
    weight: jax.Array
    loss_weight: float = 0.0


Terms = dict[str, Term]


def mean(term: Term) -> jax.Array:
    """sum / weight, and 0 where the weight is 0."""
    return jnp.where(term.weight > 0, term.sum / jnp.maximum(term.weight, 1e-9), 0.0)
