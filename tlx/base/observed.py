"""Parameters that a step changes by what it observed of them, and not by a gradient: ranges of activations.

Such a parameter lies in the model's tree, where inference reads it, and has no part in the optimizer. The module that
owns it observes in its forward pass and hands the observation over as the parameter's cotangent (`jax.custom_vjp`),
so that it comes out of scans over layers, rematerialisation and meshes as gradients do. The step joins the
observations of microbatches, and changes the parameter where the step is accepted.

A parameter is float32[..., 2]: its value, and how often it was changed. An observation has the same shape: the sum of
the changes that the uses of the parameter ask for, and their number.
"""

import jax
import jax.numpy as jnp

NAMES = ("input_range", "output_range")
"""Last parts of the paths of such parameters."""


def is_observed(path: str) -> bool:
    """Tell whether a parameter is changed by observations."""
    return path.rpartition("/")[2] in NAMES


def per_use(observation: jax.Array) -> jax.Array:
    """Return an observation as if its parameter had one use: the mean change, and 1 where there was a use."""
    change, uses = jnp.split(observation.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([change / jnp.maximum(uses, 1), jnp.minimum(uses, 1)], axis=-1)


def join(total: jax.Array, part: jax.Array) -> jax.Array:
    """Join what two parts of a batch observed: the larger of the changes, as the largest value of both asks for.

    Args:
        total: per_use observation of the parts before; zeros before the first.
        part: observation of another part.

    Returns:
        The per_use observation of all parts, whatever their number and order.
    """
    part = per_use(part)
    larger = jnp.maximum(total, part)
    # A part without a use has no change that could be compared.
    return jnp.where(total[..., 1:] == 0, part, jnp.where(part[..., 1:] == 0, total, larger))


def changed(value: jax.Array, observation: jax.Array) -> jax.Array:
    """Return a parameter after a step's observation."""
    return value + per_use(observation).astype(value.dtype)
