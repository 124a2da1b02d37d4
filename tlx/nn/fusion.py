"""Where the compiler is kept from joining what is faster apart."""

from typing import TypeVar

import jax

from tlx.base.platform import platform

T = TypeVar("T")


def fusion_barrier(x: T) -> T:
    """`x` and its gradient, on a TPU each computed before what reads it.

    Its compiler likes to put activations and norms into the loops of the matrix products beside them, where
    the vector unit then holds the matrix unit up: for Llama's feed-forward a fifth of the step.
    """
    return jax.lax.optimization_barrier(x) if platform() == "tpu" else x


@jax.custom_vjp
def _forward_barrier(x: T) -> T:
    return jax.lax.optimization_barrier(x)


@jax.custom_vjp
def _backward_barrier(x: T) -> T:
    return x


_forward_barrier.defvjp(lambda x: (jax.lax.optimization_barrier(x), None), lambda _, g: (g,))
_backward_barrier.defvjp(lambda x: (x, None), lambda _, g: (jax.lax.optimization_barrier(g),))


def forward_barrier(x: T) -> T:
    """`x`, on a TPU computed before what reads it; its gradient is left to the compiler.

    Behind an activation: it may end the product before it, and is not done again by each product after it.
    """
    return _forward_barrier(x) if platform() == "tpu" else x


def backward_barrier(x: T) -> T:
    """`x`, whose gradient on a TPU is computed before what reads that: the same, of the way back."""
    return _backward_barrier(x) if platform() == "tpu" else x
