"""Barriers that keep XLA from fusing operations that run faster apart."""

from typing import TypeVar

import jax

from tlx.base.platform import platform

T = TypeVar("T")


def fusion_barrier(x: T) -> T:
    """Return `x`; on TPU neither it nor its gradient is fused with the operations that read it.

    The TPU compiler likes to move activations and norms into the loops of the matrix products beside them.
    The vector unit then holds up the matrix unit: for Llama's feed-forward network by a fifth of the step.
    """
    return jax.lax.optimization_barrier(x) if platform() == "tpu" else x


@jax.custom_vjp
def _forward_barrier(x: T) -> T:
    return jax.lax.optimization_barrier(x)


@jax.custom_vjp
def _backward_barrier(x: T) -> T:
    return x


# lax.optimization_barrier has a gradient with a barrier of its own; these have one in one direction only.
_forward_barrier.defvjp(lambda x: (jax.lax.optimization_barrier(x), None), lambda _, g: (g,))
_backward_barrier.defvjp(lambda x: (x, None), lambda _, g: (jax.lax.optimization_barrier(g),))


def forward_barrier(x: T) -> T:
    """Return `x`; on TPU its value is not fused with what reads it, while its gradient may be.

    Used after an activation: it may end the product before it, and must not be recomputed inside each product
    that reads it.
    """
    return _forward_barrier(x) if platform() == "tpu" else x


def backward_barrier(x: T) -> T:
    """Return `x`; on TPU its gradient is not fused with what reads that, while its value may be.

    The mirror of `forward_barrier` for the backward pass.
    """
    return _backward_barrier(x) if platform() == "tpu" else x
