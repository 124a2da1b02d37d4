"""The carry (memories of XLNet, Transformer-XL, ELMo): which dim of each of its leaves is the batch."""

from typing import Any

import jax
import jax.numpy as jnp


def initial_carry(module: Any, batch_size: int) -> Any:
    """The carry before the first batch; None for a module that has none."""
    make = getattr(module, "initial_carry", None)
    return None if make is None else make(batch_size)


def batch_dims(module: Any) -> Any:
    """For each leaf of the carry, the dim that grows with the batch size.

    Row b of that dim belongs to row b of the batch, so that the carry is split into microbatches and over
    devices as the batch is.
    """
    shapes = [jax.eval_shape(lambda size=size: initial_carry(module, size)) for size in (2, 3)]
    return jax.tree.map(_grown_dim, *shapes)


def split(x: jax.Array, parts: int, dim: int = 0) -> jax.Array:
    """Rows of `dim` dealt out to `parts` microbatches: [..., B, ...] to [parts, ..., B / parts, ...].

    Row b goes to part b mod parts: each device, which holds neighbouring rows, has some rows of every part,
    so that no row changes device.
    """
    shape = (*x.shape[:dim], x.shape[dim] // parts, parts, *x.shape[dim + 1 :])
    return jnp.moveaxis(x.reshape(shape), dim + 1, 0)


def join(x: jax.Array, dim: int = 0) -> jax.Array:
    """Undoes `split`: [parts, ..., B / parts, ...] to [..., B, ...]."""
    x = jnp.moveaxis(x, 0, dim + 1)
    return x.reshape(*x.shape[:dim], x.shape[dim] * x.shape[dim + 1], *x.shape[dim + 2 :])


def _grown_dim(small: jax.ShapeDtypeStruct, large: jax.ShapeDtypeStruct) -> int:
    grown = [
        dim for dim, sizes in enumerate(zip(small.shape, large.shape, strict=True)) if sizes[0] != sizes[1]
    ]
    if len(grown) != 1:
        raise ValueError(f"a leaf of the carry has {len(grown)} batch dims: shape {small.shape} for 2 rows")
    return grown[0]
