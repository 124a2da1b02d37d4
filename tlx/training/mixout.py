"""Mixout: entries of a matrix are replaced by those of the base model at random (Lee et al. 2020, arXiv:1909.11299).

With u the values before the first step and m = 1 with probability p, else 0, entry by entry, the step computes with

    w' = u + (1 - m) (w - u) / (1 - p)

whose mean is w: a dropout of the difference from the base model, as dropout is one of the difference from 0. The
kernels of the linear layers of the language model are mixed, as in the authors' code; heads, which the base model
does not have, tables, biases and norms are not. m is drawn anew for each step, the same for all of its rows. u lies
in State.extra, and is saved with each checkpoint.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tlx.base import tree

NAME = "mixout"
"""Name of u in State.extra."""

# Folded into the step's key, whose other children are the rows' keys.
_STREAM = 2**31 - 1


def is_mixed(path: str) -> bool:
    """Tell whether a parameter is a kernel of a linear layer of the language model."""
    return path.startswith("model/") and path.endswith("/kernel")


def initial_values(params: Any) -> dict[str, Any]:
    """Return u: copies of the parameters that are mixed, before the first step."""
    # Copied: the step donates both, and may not be given one buffer twice.
    kernels = {path: jnp.array(x, copy=True) for path, x in tree.flatten(params).items() if is_mixed(path)}
    return tree.unflatten(kernels)


class Mixing:
    """The mixture of one step."""

    def __init__(self, probability: float, extra: Mapping[str, Any], seed: jax.Array, step: jax.Array):
        """Take what the mixture depends on.

        Args:
            probability: p, in (0, 1).
            extra: State.extra, with u.
            seed: uint32 []: the run's.
            step: int32 []: number of the step.
        """
        self._keep_probability = 1 - probability
        self._base = tree.flatten(extra[NAME])
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), _STREAM)
        # By the order of the paths, which is the same wherever the run goes on.
        self._keys = {path: jax.random.fold_in(key, i) for i, path in enumerate(sorted(self._base))}

    def mixed(self, params: Any) -> Any:
        """Return w' of all parameters."""

        def mix(path: str, w: jax.Array) -> jax.Array:
            if path not in self._base:
                return w
            u = self._base[path]
            return jnp.where(self._kept(path, w), u + (w - u) / self._keep_probability, u)

        return tree.map_with_path(mix, params)

    def through(self, grads: Any) -> Any:
        """Return gradients with respect to w, of those with respect to w'."""

        def scale(path: str, g: jax.Array) -> jax.Array:
            if path not in self._base:
                return g
            # Drawn again from the same key, for less than it costs to keep the bits.
            return jnp.where(self._kept(path, g), g / self._keep_probability, 0)

        return tree.map_with_path(scale, grads)

    def _kept(self, path: str, like: jax.Array) -> jax.Array:
        """1 - m as booleans."""
        return jax.random.bernoulli(self._keys[path], self._keep_probability, like.shape)
