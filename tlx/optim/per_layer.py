"""Transformations that depend on a leaf's shape or norm, applied to each layer and each matrix alone."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax

from tlx.base import tree
from tlx.optim.leaves import Leaf, owner


def per_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Vectorise a transformation over the leading dim of all leaves; counts belong to no leaf and are shared."""

    def init(params: Any) -> Any:
        layer = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
        # Shapes alone tell which leaves of the state belong to a layer.
        axes = _axes(jax.eval_shape(transform.init, layer), params)
        return jax.vmap(transform.init, out_axes=axes)(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        axes = _axes(state, updates)
        mapped = jax.vmap(transform.update, in_axes=(0, axes, 0), out_axes=(0, axes))
        return mapped(updates, state, params)

    return optax.GradientTransformation(init, update)


def as_matrices(
    transform: optax.GradientTransformation, leaves: Mapping[str, Leaf]
) -> optax.GradientTransformation:
    """Apply a transformation to leaves whose heads are joined: [D, N, H] becomes [D, N H]."""

    def join(values: Any) -> Any:
        return tree.map_with_path(lambda path, x: x.reshape(_joined(leaves[path])), values)

    def init(params: Any) -> Any:
        return transform.init(join(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        changed, state = transform.update(join(updates), state, join(params))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), changed, updates), state

    return optax.GradientTransformation(init, update)


def _joined(leaf: Leaf) -> tuple[int, ...]:
    return tuple(math.prod(leaf.shape[dim] for dim in side) for side in leaf.sides)


def _axes(state: Any, params: Any) -> Any:
    paths = tree.flatten(params)
    return tree.map_with_path(lambda path, _: 0 if owner(path, paths) is not None else None, state)
