"""The product of activations and a kernel, in the form that the platform multiplies without a copy."""

import math

import jax
import jax.numpy as jnp

from tlx.base.platform import platform


def contract(
    x: jax.Array,
    kernel: jax.Array,
    num_inputs: int,
    *,
    outputs_first: bool = False,
    dtype: jnp.dtype | type | None = None,
) -> jax.Array:
    """Compute y[..., outputs] = x[..., inputs] W[inputs, outputs], W cast to the dtype of x.

    Args:
        x: float[..., inputs].
        kernel: float[inputs, outputs].
        num_inputs: number of contracted dims.
        outputs_first: whether the kernel is stored as [outputs, inputs], as a table of embeddings is.
        dtype: of the sums and of y; None: that of x.

    Returns:
        dtype[..., outputs].
    """
    kernel = kernel.astype(x.dtype)
    num_rows = x.ndim - num_inputs
    num_outputs = kernel.ndim - num_inputs
    if num_rows > 1 and joins_rows():
        fan_in = math.prod(x.shape[num_rows:])
        outputs = kernel.shape[:num_outputs] if outputs_first else kernel.shape[num_inputs:]
        kernel_2d = kernel.reshape((-1, fan_in) if outputs_first else (fan_in, -1))
        y = contract(x.reshape(-1, fan_in), kernel_2d, 1, outputs_first=outputs_first, dtype=dtype)
        return y.reshape(*x.shape[:num_rows], *outputs)
    first = num_outputs if outputs_first else 0
    dims = (tuple(range(num_rows, x.ndim)), tuple(range(first, first + num_inputs)))
    return jax.lax.dot_general(x, kernel, (dims, ((), ())), preferred_element_type=dtype)


def joins_rows() -> bool:
    """Whether the rows of a product, [B, T], become one dim before it: on a single CPU device.

    The gradient of the kernel contracts them. Where there are two, the CPU compiler first transposes the larger
    operand in memory: for the logits that is 10% of a small decoder's step. Over several devices a joined dim
    would gather what is sharded along the sequence.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return platform() == "cpu" and (mesh.empty or mesh.size == 1)
