"""The choices that make a block: one frozen dataclass per part, values and not subclasses."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError, one_of


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """LayerNorm (scale and bias) or RMSNorm (scale)."""

    kind: Literal["layernorm", "rmsnorm"] = "layernorm"
    eps: float = 1e-5
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class PositionConfig:
    """How order enters: added to embeddings, rotated into queries and keys, or added to the logits.

    learned, sinusoidal: absolute, added to the embeddings. rotary: RoFormer. bucketed: T5's relative
    bias, one table per stack. relative: Transformer-XL's and XLNet's sinusoidal relative attention.
    """

    kind: Literal["none", "learned", "sinusoidal", "rotary", "bucketed", "relative"] = "learned"
    max_length: int = 1024  # rows of the learned table
    offset: int = 0  # first row in use of the learned table (BART and RoBERTa: 2)
    sinusoid_layout: Literal["halves", "interleaved"] = "halves"
    theta: float = 10_000.0  # wavelength base of rotary and sinusoidal positions
    rotary_fraction: float = 1.0  # share of each head that is rotated (GPT-NeoX: .25)
    num_buckets: int = 32
    max_distance: int = 128
    segment_relative: bool = False  # XLNet's same-or-different-segment term


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Multi-head attention with grouped keys."""

    num_heads: int = 4
    num_kv_heads: int = 0  # 0: as many as num_heads
    head_dim: int = 0  # 0: width / num_heads
    qkv_bias: bool = True
    out_bias: bool = True
    scale: bool = True  # logits times head_dim ** -.5 (T5: no)
    window: int = 0  # keys with query - key < window are seen; 0: all
    dropout: float = 0.0  # of the attention probabilities


@dataclasses.dataclass(frozen=True)
class FeedForwardConfig:
    """Two matrices around an activation, or three when gated."""

    hidden: int = 0  # 0: 4 * width
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu_tanh"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0  # of the hidden activations (T5)


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Weights at the start: normal(stddev), or normal(fan_in ** -.5) (T5)."""

    kind: Literal["normal", "fan_in"] = "normal"
    stddev: float = 0.02
    embedding_stddev: float = 0.02
    scale_residual: bool = True  # outputs into the residual stream divided by sqrt(2 * num_layers) (GPT-2)


@dataclasses.dataclass(frozen=True)
class ExecutionConfig:
    """How the same function is computed: changes speed and memory, never the result."""

    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    remat: str = "none"  # none, full, dots, or names of tensors to keep joined by "+" (see nn/stack.py)
    unroll: int = 0  # layers per iteration of the scan; 0: all on CPU, one elsewhere


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Everything one layer needs to know."""

    width: int
    num_layers: int
    residual: Literal["pre", "post", "parallel"]
    dropout: float
    causal: bool
    cross: bool
    position: PositionConfig
    attention: AttentionConfig
    feedforward: FeedForwardConfig
    norm: NormConfig
    init: InitConfig
    execution: ExecutionConfig
    dtype: str
    param_dtype: str

    @property
    def num_kv_heads(self) -> int:
        return self.attention.num_kv_heads or self.attention.num_heads

    @property
    def head_dim(self) -> int:
        return self.attention.head_dim or self.width // self.attention.num_heads

    @property
    def hidden(self) -> int:
        return self.feedforward.hidden or 4 * self.width

    def std(self, fan_in: int) -> float:
        """Standard deviation of a kernel with `fan_in` inputs."""
        return fan_in**-0.5 if self.init.kind == "fan_in" else self.init.stddev

    def residual_std(self, fan_in: int) -> float:
        """The same for a kernel that writes into the residual stream."""
        scale = (2 * self.num_layers) ** -0.5 if self.init.scale_residual else 1.0
        return self.std(fan_in) * scale


def compute_dtype(name: str) -> jnp.dtype:
    """ "auto" is bfloat16 on accelerators and float32 on CPU."""
    if name == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    if name not in ("float32", "bfloat16", "float16"):
        raise ConfigError(one_of("dtype", name, ("auto", "float32", "bfloat16", "float16")))
    return jnp.dtype(name)
