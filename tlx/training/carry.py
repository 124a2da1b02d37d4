"""The carry (memories of XLNet, Transformer-XL, ELMo), and which dim of each of its leaves is the batch."""

from typing import Any

import jax
import jax.numpy as jnp


def initial_carry(module: Any, batch_size: int) -> Any:
    """Return the carry before the first batch; None for a module that has none."""
    make = getattr(module, "initial_carry", None)
    return None if make is None else make(batch_size)


def batch_dims(module: Any) -> Any:
    """Return, for each leaf of the carry, the dim that grows with the batch size.

    Row b of that dim belongs to row b of the batch, so that the carry is split into microbatches and sharded
    over devices as the batch is.
    """
    # Found by comparing two sizes: a fixed size could equal another dim by chance.
    of_two = jax.eval_shape(lambda: initial_carry(module, 2))
    of_three = jax.eval_shape(lambda: initial_carry(module, 3))
    return jax.tree.map(_grown_dim, of_two, of_three)


def split(x: jax.Array, parts: int, dim: int = 0) -> jax.Array:
    """Deal the rows of an array out to microbatches.

    Row b goes to microbatch b mod parts. A device holds neighbouring rows, so that it has some rows of every
    microbatch, and no row changes its device.

    Args:
        x: Array [..., B, ...].
        parts: Number of microbatches; divides B.
        dim: Batch dim of `x`.

    Returns:
        Array [parts, ..., B / parts, ...].
    """
    # Rows before parts: [parts, rows] would give a device's rows to one microbatch, and move them.
    shape = (*x.shape[:dim], x.shape[dim] // parts, parts, *x.shape[dim + 1 :])
    return jnp.moveaxis(x.reshape(shape), dim + 1, 0)


def join(x: jax.Array, dim: int = 0) -> jax.Array:
    """Undo `split`: [parts, ..., B / parts, ...] to [..., B, ...]."""
    x = jnp.moveaxis(x, 0, dim + 1)
    return x.reshape(*x.shape[:dim], x.shape[dim] * x.shape[dim + 1], *x.shape[dim + 2 :])


def _grown_dim(small: jax.ShapeDtypeStruct, large: jax.ShapeDtypeStruct) -> int:
    """Return the one dim in which the shapes of carries for two and for three rows differ."""
    sizes = zip(small.shape, large.shape, strict=True)
    grown = [dim for dim, (before, after) in enumerate(sizes) if before != after]
    # No dim, or two, could not be split into microbatches without mixing rows.
    if len(grown) != 1:
        raise ValueError(f"a leaf of the carry has {len(grown)} batch dims: shape {small.shape} for 2 rows")
    return grown[0]
