"""Clipping of gradients by their norm: of all together, or of groups of parameters as by optimizers of their own.

Clipping is all that couples one parameter's update to another's gradient: the moments, rates and decays of the
optimizers are those of each parameter (optim/transform.py). So the update of parameters in groups equals that of one
optimizer for each group.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import tree
from tlx.optim.leaves import Leaf, describe
from tlx.optim.rules import Value, by_path
from tlx.training.config import TrainConfig


def group_indices(config: TrainConfig, leaves: Mapping[str, Leaf]) -> dict[str, Value]:
    """Return the index of each parameter's group: that of the first pattern of train.clip_groups that matches it.

    Args:
        config: Patterns of the groups.
        leaves: The trainable parameters by path.

    Returns:
        By path, a number, or an array [layers] where layers differ; what no pattern matches has their number.

    Raises:
        ConfigError: A pattern is no regular expression, or matches no parameter.
    """
    rules = [(pattern, float(index)) for index, pattern in enumerate(config.clip_groups)]
    return by_path("train.clip_groups", rules, leaves, lambda leaf: float(len(rules)))


def clip(grads: Any, norm: jax.Array, config: TrainConfig) -> Any:
    """Scale gradients down to a norm of train.clip_norm, for each group of train.clip_groups.

    Args:
        grads: Gradients of the trainable parameters.
        norm: float32 []: their global norm.
        config: The largest norm, and the groups.

    Returns:
        The gradients, in their dtypes.
    """
    if config.clip_norm is None:
        return grads
    if not config.clip_groups:
        factor = _factor(norm, config.clip_norm)
        return jax.tree.map(lambda grad: (grad * factor).astype(grad.dtype), grads)
    indices = {
        path: np.asarray(value, np.int32) for path, value in group_indices(config, describe(grads)).items()
    }
    squares_G = jnp.zeros(len(config.clip_groups) + 1)
    for path, grad in tree.flatten(grads).items():
        # Layers of a stack may be in different groups: then the sums are by layer.
        dims = tuple(range(indices[path].ndim, grad.ndim))
        squares = jnp.sum(jnp.square(grad.astype(jnp.float32)), axis=dims)
        squares_G = squares_G.at[indices[path]].add(squares)
    factors_G = _factor(jnp.sqrt(squares_G), config.clip_norm)

    def scale(path: str, grad: jax.Array) -> jax.Array:
        factor = factors_G[indices[path]]
        column = factor.reshape(factor.shape + (1,) * (grad.ndim - factor.ndim))
        return (grad * column).astype(grad.dtype)

    return tree.map_with_path(scale, grads)


def _factor(norm: jax.Array, largest: float) -> jax.Array:
    # The floor keeps a gradient of zeros from 0 / 0.
    return jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-12))
