"""The product of activations and a kernel, in the form that the platform multiplies without a copy."""

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
        # The kernel keeps its dims: a scan over layers would save a reshaped kernel for its backward pass.
        joined = x.reshape(-1, *x.shape[num_rows:])
        y = contract(joined, kernel, num_inputs, outputs_first=outputs_first, dtype=dtype)
        return y.reshape(*x.shape[:num_rows], *y.shape[1:])
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
