"""A linear map between named dims, stored in the shape that its use gives it."""

import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.platform import platform
from tlx.nn.config import Lora
from tlx.nn.fusion import backward_barrier, forward_barrier
from tlx.nn.quantized import FORMATS, product
from tlx.parallel.sharding import logical


class Linear(nn.Module):
    """y[..., outputs] = x[..., inputs] W[inputs, outputs] + b[outputs].

    `names` are the logical names of W's dims, inputs first. With `lora` W is W + scale A B, A drawn as
    torch draws a layer's (uniform up to fan_in ** -.5) and B zero; A B is never built.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: tuple[str, ...]
    std: float
    bias: bool
    dtype: str
    param_dtype: str
    lora: Lora | None = None
    flat: bool = False  # heads are joined while it is computed: what reads or makes x W reads them so
    matmul: str = "dtype"  # how x W is computed: model.matmul

    def setup(self):
        count, dtype = len(self.inputs), jnp.dtype(self.param_dtype)
        init = logical(nn.initializers.normal(self.std), self.names)
        self.kernel = self.param("kernel", init, self.inputs + self.outputs, dtype)
        if self.bias:
            zeros = logical(nn.initializers.zeros_init(), self.names[count:])
            self.offset = self.param("bias", zeros, self.outputs, dtype)
        if self.lora is not None:
            shape = (*self.inputs, self.lora.rank)
            self.low = self.param("lora_a", logical(self._draw, (*self.names[:count], None)), shape, dtype)
            zeros = logical(nn.initializers.zeros_init(), (None, *self.names[count:]))
            self.high = self.param("lora_b", zeros, (self.lora.rank, *self.outputs), dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.flat and self.lora is None:
            return self._flat(x)
        return self.shifted(_product(x, self.kernel, len(self.inputs), self.matmul), x)

    def shifted(self, y: jax.Array, x: jax.Array) -> jax.Array:
        """y = x W, with what is added to it: b, and the low-rank slot's part."""
        if self.lora is not None:
            low = _product(x, self.low, len(self.inputs))
            y = y + _product(low, self.high, 1) * jnp.asarray(self.lora.scale, y.dtype)
        return add_bias(y, self.offset) if self.bias else y

    def _flat(self, x: jax.Array) -> jax.Array:
        """As `__call__`. Heads apart would be moved before and after, each tile of a head for itself."""
        x_flat = x.reshape(*x.shape[: x.ndim - len(self.inputs)], self.fan_in)
        x_flat = backward_barrier(x_flat) if len(self.inputs) > 1 else x_flat
        y = _product(x_flat, self.kernel.reshape(self.fan_in, -1), 1)
        y = add_bias(y, self.offset.reshape(-1)) if self.bias else y
        y = forward_barrier(y) if len(self.outputs) > 1 else y
        return y.reshape(*y.shape[:-1], *self.outputs)

    def _draw(self, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        limit = self.fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    @property
    def fan_in(self) -> int:
        return math.prod(self.inputs)


def add_bias(y: jax.Array, offset: jax.Array) -> jax.Array:
    """y + offset, of as many last dims as it has."""
    if platform() == "tpu" and y.dtype == jnp.bfloat16:
        return _add_bias(backward_barrier(y), offset)
    return y + offset.astype(y.dtype)


@jax.custom_vjp
def _add_bias(y: jax.Array, offset: jax.Array) -> jax.Array:
    return (y.astype(jnp.float32) + offset.astype(jnp.float32)).astype(y.dtype)


def _add_bias_backward(offset: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum over places by the matrix unit, in float32: to add them up takes three times as long."""
    count = g.ndim - offset.ndim
    contract = (tuple(range(1, count + 1)), tuple(range(count)))
    ones = jnp.ones((8, *g.shape[:count]), g.dtype)
    total = jax.lax.dot_general(ones, g, (contract, ((), ())), preferred_element_type=jnp.float32)
    return g, jnp.mean(total, axis=0).astype(offset.dtype)  # of eight that are equal


_add_bias.defvjp(lambda y, offset: (_add_bias(y, offset), offset), _add_bias_backward)


def should_fuse() -> bool:
    """Whether maps of the same x should share a product: where a mesh axis splits their outputs.

    The gradient of x is a sum over that axis, once for each product (Shoeybi et al. 2019, 3).
    """
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape.get("tensor", 1) > 1


def fused_projections(x: jax.Array, layers: Sequence[Linear]) -> list[jax.Array]:
    """[layer(x) for layer in layers] by one product. Outputs: [F], or [N, H] with N a multiple of the least.

    Kernels are joined within groups of heads, so that the dim that is split over a mesh axis stays so.
    """
    groups = min(layer.outputs[0] for layer in layers)
    kernels = [
        layer.kernel.reshape(*layer.inputs, groups, layer.outputs[0] // groups, *layer.outputs[1:])
        for layer in layers
    ]
    count = len(layers[0].inputs)
    kernel = jnp.concatenate([kernel.astype(x.dtype) for kernel in kernels], axis=count + 1)
    y = _product(x, kernel, count, layers[0].matmul)
    dim = x.ndim - count + 1
    ends = list(itertools.accumulate(kernel.shape[count + 1] for kernel in kernels))
    parts = jnp.split(y, ends[:-1], axis=dim)
    return [
        layer.shifted(part.reshape(*x.shape[: x.ndim - count], *layer.outputs), x)
        for layer, part in zip(layers, parts, strict=True)
    ]


def _product(x: jax.Array, kernel: jax.Array, count: int, matmul: str = "dtype") -> jax.Array:
    """x[..., inputs] W[inputs, outputs], over `count` dims."""
    if matmul in FORMATS:
        return product(x, kernel.astype(x.dtype), count, matmul)
    contract = (tuple(range(x.ndim - count, x.ndim)), tuple(range(count)))
    return jax.lax.dot_general(x, kernel.astype(x.dtype), (contract, ((), ())))
