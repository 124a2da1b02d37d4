"""A linear map between named dims, stored in the shape that its use gives it."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.platform import platform
from tlx.nn import weight_formats
from tlx.nn.config import Lora, QuantizationConfig
from tlx.nn.dropout import dropout
from tlx.nn.fake_quantized import fake_activations, fake_weights, integer_product
from tlx.nn.fusion import backward_barrier, forward_barrier
from tlx.nn.products import contract
from tlx.nn.quantized import FORMATS, product
from tlx.parallel.sharding import logical


class Linear(nn.Module):
    """y[..., outputs] = x[..., inputs] W[inputs, outputs] + b[outputs].

    With `lora` W is W + scale A B (Hu et al. 2022), and A B reads x after a dropout of its own. A is drawn as
    torch initialises a linear layer (uniform up to fan_in ** -0.5) and B is zero. A B is never built.
    """

    inputs: tuple[int, ...]
    """Sizes of the contracted dims."""

    outputs: tuple[int, ...]
    """Sizes of the output dims."""

    names: tuple[str | None, ...]
    """Logical names of W's dims, inputs first, by which it is sharded."""

    std: float
    """Standard deviation of W's initial values."""

    bias: bool
    """Whether there is a b, which starts from 0."""

    dtype: str
    """Of the computation."""

    param_dtype: str
    """Of the parameters."""

    lora: Lora | None = None
    """Rank and scale of low-rank adaptation; None: none."""

    flat: bool = False
    """Whether heads are joined during the computation, because the neighbours read or write them so."""

    matmul: str = "dtype"
    """Precision of the product x W: model.matmul."""

    quantization: QuantizationConfig = QuantizationConfig()
    """Quantisation of x, W and y."""

    quantized_output: bool = True
    """Whether y is quantised too (Q8BERT: not those of queries and keys)."""

    quantizable: bool = True
    """Whether W may be stored in fewer bits, as nn/weight_formats.py describes."""

    def setup(self):
        """Create parameters and submodules."""
        count = len(self.inputs)
        dtype = jnp.dtype(self.param_dtype)
        input_names = self.names[:count]
        output_names = self.names[count:]
        num_dims = len(self.names)
        contracted = tuple(range(-num_dims, count - num_dims)) if self.quantizable else None
        init = logical(nn.initializers.normal(self.std), self.names, contracted)
        kernel = weight_formats.param(self, "kernel", init, self.inputs + self.outputs, dtype)
        self.kernel = weight_formats.dequantized(kernel, self.dtype)
        if self.bias:
            zeros = logical(nn.initializers.zeros_init(), output_names)
            self.offset = self.param("bias", zeros, self.outputs, dtype)
        if self.lora is not None:
            rank = self.lora.rank
            uniform = logical(self._draw_lora, (*input_names, None))
            self.low = self.param("lora_a", uniform, (*self.inputs, rank), dtype)
            zeros = logical(nn.initializers.zeros_init(), (None, *output_names))
            self.high = self.param("lora_b", zeros, (rank, *self.outputs), dtype)
        self.input_range = self._range("input_range")
        self.output_range = self._range("output_range") if self.quantized_output else None

    def __call__(self, x: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Apply the map to x[..., inputs]; keys_B is one PRNG key for each row of x, None: no dropout."""
        if self.quantization.bits:
            return self._quantized(x, keys_B)
        if self.flat and self.lora is None:
            return self._with_joined_heads(x)
        return self.add_terms(_product(x, self.kernel, len(self.inputs), self.matmul), x, keys_B)

    def add_terms(self, y: jax.Array, x: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Add the low-rank part and b to y = x W.

        Args:
            y: [..., outputs].
            x: [..., inputs]; the low-rank part reads it dropped out.
            keys_B: one PRNG key for each row; None: no dropout.

        Returns:
            [..., outputs].
        """
        if self.lora is not None:
            y = y + self._low_rank(x, y.dtype, keys_B)
        return add_bias(y, self.offset) if self.bias else y

    def _low_rank(self, x: jax.Array, dtype: jnp.dtype, keys_B: jax.Array | None) -> jax.Array:
        """Compute scale x A B, x being dropped out where there are keys."""
        assert self.lora is not None
        x = dropout(x, self.lora.dropout, keys_B, self.lora.site)
        low = _product(x, self.low, len(self.inputs))
        # Two thin products in place of building A B, which is as large as W.
        return _product(low, self.high, 1) * jnp.asarray(self.lora.scale, dtype)

    def _with_joined_heads(self, x: jax.Array) -> jax.Array:
        """Apply the map over [N x H]: separate heads would be moved before and after, tile by tile."""
        x_flat = x.reshape(*x.shape[: x.ndim - len(self.inputs)], self.fan_in)
        # Barriers where heads meet the kernel: else the compiler splits heads inside neighbouring fusions.
        if len(self.inputs) > 1:
            x_flat = backward_barrier(x_flat)
        y = _product(x_flat, self.kernel.reshape(self.fan_in, -1), 1)
        if self.bias:
            y = add_bias(y, self.offset.reshape(-1))
        if len(self.outputs) > 1:
            y = forward_barrier(y)
        return y.reshape(*y.shape[:-1], *self.outputs)

    def _quantized(self, x: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        """Apply the map to quantised x and W; the low-rank part, if any, is not quantised."""
        part = self.quantization
        if part.integers:
            rows = x.shape[: x.ndim - len(self.inputs)]
            y = integer_product(
                x.reshape(*rows, self.fan_in),
                self.kernel.reshape(self.fan_in, -1),
                self.offset.reshape(-1) if self.bias else None,
                self.input_range,
                part,
            ).reshape(*rows, *self.outputs)
            if self.lora is not None:
                y = y + self._low_rank(x, y.dtype, keys_B)
        else:
            quantized_x = fake_activations(x, self.input_range, part)
            num_inputs = len(self.inputs)
            kernel: Any = fake_weights(self.kernel, part.kernel_bits, part.groups, num_inputs)
            y = _product(quantized_x, kernel, num_inputs)
            y = self.add_terms(y, x, keys_B)
        return fake_activations(y, self.output_range, part) if self.quantized_output else y

    def _range(self, name: str) -> jax.Array | None:
        """The average of a range, which starts from 0; None: there is none."""
        if not self.quantization.bits or self.quantization.activations == "dynamic":
            return None
        # Float32 whatever param_dtype is: a change of a ten thousandth is nothing in bfloat16.
        return self.param(name, logical(nn.initializers.zeros_init(), (None,)), (2,), jnp.dtype(jnp.float32))

    def _draw_lora(self, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        limit = self.fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    @property
    def fan_in(self) -> int:
        """Number of inputs of each output."""
        return math.prod(self.inputs)


def add_bias(y: jax.Array, offset: jax.Array) -> jax.Array:
    """Add offset[dims] to y[..., dims]."""
    if platform() == "tpu" and y.dtype == jnp.bfloat16:
        # The barrier keeps the gradient of y whole, for the product that sums it and those that read it.
        return _add_bias(backward_barrier(y), offset)
    return y + offset.astype(y.dtype)


@jax.custom_vjp
def _add_bias(y: jax.Array, offset: jax.Array) -> jax.Array:
    return (y.astype(jnp.float32) + offset.astype(jnp.float32)).astype(y.dtype)


def _add_bias_backward(offset: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bias gradient as a float32 matmul with ones: 3 times faster than a reduction on TPU."""
    count = g.ndim - offset.ndim
    contract = (tuple(range(1, count + 1)), tuple(range(count)))
    # Eight rows of ones fill a tile; their results are equal.
    ones = jnp.ones((8, *g.shape[:count]), g.dtype)
    total = jax.lax.dot_general(ones, g, (contract, ((), ())), preferred_element_type=jnp.float32)
    return g, jnp.mean(total, axis=0).astype(offset.dtype)


_add_bias.defvjp(lambda y, offset: (_add_bias(y, offset), offset), _add_bias_backward)


def should_fuse() -> bool:
    """Whether maps of the same x should share one product: where the "tensor" mesh axis shards their outputs.

    The gradient of x is summed over that axis, once for each product (Shoeybi et al. 2019, 3).
    """
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape.get("tensor", 1) > 1


def fused_projections(
    x: jax.Array, layers: Sequence[Linear], keys_B: jax.Array | None = None
) -> list[jax.Array]:
    """Compute [layer(x, keys_B) for layer in layers] by one product.

    Outputs are [F], or [N, H] where every N is a multiple of the least one. Kernels are concatenated within
    groups of heads, so that a dim that is sharded over a mesh axis stays sharded.

    Args:
        x: [..., inputs].
        layers: maps of the same inputs.
        keys_B: one PRNG key for each row of x; None: no dropout.

    Returns:
        The output of each map.
    """
    # Key heads are fewer than query heads: a group holds one key head and its query heads.
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
        layer.add_terms(part.reshape(*x.shape[: x.ndim - count], *layer.outputs), x, keys_B)
        for layer, part in zip(layers, parts, strict=True)
    ]


def _product(x: jax.Array, kernel: jax.Array, count: int, matmul: str = "dtype") -> jax.Array:
    """Contract the last `count` dims of x with the first ones of W, in the dtype of x or in 8 bits."""
    if matmul in FORMATS:
        return product(x, kernel.astype(x.dtype), count, matmul)
    return contract(x, kernel, count)
