"""Where the compiler is kept from joining what is faster apart."""

from typing import TypeVar

import jax

from tlx.base.platform import platform

T = TypeVar("T")


def apart(x: T) -> T:
    """`x` and its gradient, on a TPU each computed before what reads it.

    Its compiler likes to put activations and norms into the loops of the matrix products beside them, where
    the vector unit then holds the matrix unit up: for Llama's feed-forward a fifth of the step.
    """
    return jax.lax.optimization_barrier(x) if platform() == "tpu" else x
