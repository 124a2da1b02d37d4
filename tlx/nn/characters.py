"""A token from its characters: convolutions over them, the largest of each, highways (ELMo's encoder)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.linear import Linear
from tlx.parallel.sharding import logical
from tlx.text.characters import NUM_CHARACTERS


@dataclasses.dataclass(frozen=True)
class CharacterConfig:
    """ELMo's published sizes (Peters et al. 2018; options of allenai/bilm-tf)."""

    width: int = 16
    filters: tuple[tuple[int, int], ...] = (  # (characters that one reads, how many there are)
        (1, 32),
        (2, 32),
        (3, 64),
        (4, 128),
        (5, 256),
        (6, 512),
        (7, 1024),
    )
    num_highways: int = 2

    @property
    def num_filters(self) -> int:
        return sum(count for _, count in self.filters)


class CharacterEncoder(nn.Module):
    """Kim et al. 2016 (sec. 3) as ELMo has it: a vector of `out_width` for each token."""

    cfg: CharacterConfig
    out_width: int
    dtype: str
    param_dtype: str

    def setup(self):
        cfg, param = self.cfg, jnp.dtype(self.param_dtype)
        shape = (NUM_CHARACTERS, cfg.width)
        self.table = self.param("table", logical(_uniform, (None, None)), shape, param)
        kernels, biases = [], []
        for place, (reach, count) in enumerate(cfg.filters):
            init = logical(nn.initializers.normal((reach * cfg.width) ** -0.5), (None, None, None))
            kernels.append(self.param(f"filter_{place}", init, (reach, cfg.width, count), param))
            zeros = logical(nn.initializers.zeros_init(), (None,))
            biases.append(self.param(f"filter_{place}_bias", zeros, (count,), param))
        self.kernels, self.biases = kernels, biases
        wide = cfg.num_filters
        rest = (wide**-0.5, True, self.dtype, self.param_dtype)
        self.gates = [Linear((wide,), (wide,), ("embed", "mlp"), *rest) for _ in range(cfg.num_highways)]
        self.changes = [Linear((wide,), (wide,), ("embed", "mlp"), *rest) for _ in range(cfg.num_highways)]
        self.projection = Linear((wide,), (self.out_width,), ("mlp", "embed"), *rest)

    def __call__(self, characters_BTC: jax.Array) -> jax.Array:
        """[B, T, out_width] of character ids int[B, T, C]."""
        batch, length, size = characters_BTC.shape
        dtype = jnp.dtype(self.dtype)
        x = jnp.take(self.table, characters_BTC.reshape(-1, size), axis=0).astype(dtype)
        found = []
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            # One product over what each place reads: with so few channels faster than a convolution.
            reach, places = kernel.shape[0], size - kernel.shape[0] + 1
            read = jnp.concatenate([x[:, i : i + places] for i in range(reach)], axis=-1)
            y = read @ kernel.reshape(-1, kernel.shape[2]).astype(dtype)
            found.append(jax.nn.relu(jnp.max(y, axis=1) + bias.astype(dtype)))
        x = jnp.concatenate(found, axis=-1)
        for gate, change in zip(self.gates, self.changes, strict=True):
            carried = jax.nn.sigmoid(gate(x).astype(jnp.float32)).astype(dtype)
            x = carried * jax.nn.relu(change(x)) + (1 - carried) * x
        return self.projection(x).reshape(batch, length, self.out_width)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1, 1)
