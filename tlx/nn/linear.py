"""A linear map between named dims, stored in the shape that its use gives it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.parallel.sharding import logical


class Linear(nn.Module):
    """y[..., outputs] = x[..., inputs] W[inputs, outputs] + b[outputs].

    `names` are the logical names of W's dims, inputs first.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: tuple[str, ...]
    std: float
    bias: bool
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        count = len(self.inputs)
        init = logical(nn.initializers.normal(self.std), self.names)
        kernel = self.param("kernel", init, self.inputs + self.outputs, jnp.dtype(self.param_dtype))
        contract = (tuple(range(x.ndim - count, x.ndim)), tuple(range(count)))
        y = jax.lax.dot_general(x, kernel.astype(x.dtype), (contract, ((), ())))
        if self.bias:
            zeros = logical(nn.initializers.zeros_init(), self.names[count:])
            y = y + self.param("bias", zeros, self.outputs, jnp.dtype(self.param_dtype)).astype(x.dtype)
        return y

    @property
    def fan_in(self) -> int:
        return math.prod(self.inputs)
