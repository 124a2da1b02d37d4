"""A token's vector from its characters: convolutions, their maxima, highways (ELMo's encoder).

Shapes: W characters of a token.
"""

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
    """Size of a character's vector."""

    filters: tuple[tuple[int, int], ...] = (
        (1, 32),
        (2, 32),
        (3, 64),
        (4, 128),
        (5, 256),
        (6, 512),
        (7, 1024),
    )
    """(characters that a filter reads, number of such filters)."""

    num_highways: int = 2
    """Number of highway layers; 0: none."""

    max_characters: int = 50
    """Characters of a token in the rows of tasks, with those that begin and end it, at least 3; more are cut.
    Pretraining has objective.max_characters, which a task takes from its base model."""

    @property
    def num_filters(self) -> int:
        """Number of all filters, the width of the highways."""
        return sum(count for _, count in self.filters)


class CharacterEncoder(nn.Module):
    """Kim et al. 2016, section 3, as ELMo has it: a vector for each token."""

    cfg: CharacterConfig
    """Sizes of filters and highways."""

    out_width: int
    """Size of a token's vector."""

    dtype: str
    """Of the computation."""

    param_dtype: str
    """Of the parameters."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        dtype = jnp.dtype(self.param_dtype)
        shape = (NUM_CHARACTERS, cfg.width)
        self.table = self.param("table", logical(_uniform, (None, None)), shape, dtype)
        kernels = []
        biases = []
        for i, (reach, count) in enumerate(cfg.filters):
            init = logical(nn.initializers.normal((reach * cfg.width) ** -0.5), (None, None, None))
            kernels.append(self.param(f"filter_{i}", init, (reach, cfg.width, count), dtype))
            zeros = logical(nn.initializers.zeros_init(), (None,))
            biases.append(self.param(f"filter_{i}_bias", zeros, (count,), dtype))
        self.kernels = kernels
        self.biases = biases
        width = cfg.num_filters
        self.gates = [self._linear(width, ("embed", "mlp")) for _ in range(cfg.num_highways)]
        self.changes = [self._linear(width, ("embed", "mlp")) for _ in range(cfg.num_highways)]
        self.projection = self._linear(self.out_width, ("mlp", "embed"))

    def __call__(self, characters_BTW: jax.Array) -> jax.Array:
        """Encode character ids int[B, T, W] to [B, T, out_width]."""
        batch, length, size = characters_BTW.shape
        dtype = jnp.dtype(self.dtype)
        # All tokens of the batch in one dim: convolutions stay within a token.
        x = jnp.take(self.table, characters_BTW.reshape(-1, size), axis=0).astype(dtype)
        features = []
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            # One product over all that each position reads: with so few channels faster than a convolution.
            reach = kernel.shape[0]
            num_positions = size - reach + 1
            windows = jnp.concatenate([x[:, i : i + num_positions] for i in range(reach)], axis=-1)
            y = windows @ kernel.reshape(-1, kernel.shape[2]).astype(dtype)
            features.append(jax.nn.relu(jnp.max(y, axis=1) + bias.astype(dtype)))
        x = jnp.concatenate(features, axis=-1)
        for gate, change in zip(self.gates, self.changes, strict=True):
            transform = jax.nn.sigmoid(gate(x).astype(jnp.float32)).astype(dtype)
            x = transform * jax.nn.relu(change(x)) + (1 - transform) * x
        return self.projection(x).reshape(batch, length, self.out_width)

    def _linear(self, outputs: int, names: tuple[str, str]) -> Linear:
        """A dense layer over all filters' features."""
        width = self.cfg.num_filters
        std = width**-0.5
        return Linear((width,), (outputs,), names, std, True, self.dtype, self.param_dtype)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1, 1)
