"""The choices that make a block: one frozen dataclass per part, values and not subclasses."""

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp

from tlx.base.errors import ConfigError, one_of
from tlx.base.platform import platform


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """LayerNorm (scale and bias) or RMSNorm (scale)."""

    kind: Literal["layernorm", "rmsnorm"] = "layernorm"
    eps: float = 1e-5
    bias: bool = True
    unit_offset: bool = False  # times 1 + scale, which starts from 0 (Gemma)
    before_first_layer: bool = (
        True  # before the first layer's attention too (ModernBERT: no, embeddings have theirs)
    )


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
    """Rotary positions of a model that reads further than it was first trained to.

    linear: positions / factor (Chen et al. 2023). llama3: wavelengths above original_length / low_freq_factor
    are stretched by `factor`, those below original_length / high_freq_factor are not, and between there is a
    ramp.
    """

    kind: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


@dataclasses.dataclass(frozen=True)
class PositionConfig:
    """How order enters: added to embeddings, rotated into queries and keys, or added to the logits.

    learned, sinusoidal: absolute, added to the embeddings. rotary: RoFormer. relative_bias: T5's relative
    bias, one table per stack. relative_sinusoidal: Transformer-XL's and XLNet's sinusoidal relative
    attention. disentangled: DeBERTa's vectors of distances; its num_buckets may be 0, and then none share a
    row.
    """

    kind: Literal[
        "none", "learned", "sinusoidal", "rotary", "relative_bias", "relative_sinusoidal", "disentangled"
    ] = "learned"
    max_length: int = 1024  # rows of the learned table
    offset: int = 0  # first row in use of the learned table (BART and RoBERTa: 2)
    sinusoid_layout: Literal["halves", "interleaved"] = "halves"
    theta: float = 10_000.0  # wavelength base of rotary and sinusoidal positions
    local_theta: float = 0.0  # of layers with a window, which are not scaled (Gemma 3); 0: theta
    scaling: RotaryScaling = dataclasses.field(default_factory=RotaryScaling)
    rotary_fraction: float = 1.0  # share of each head that is rotated (GPT-NeoX: .25)
    num_buckets: int = 32
    max_distance: int = 128
    per_layer: bool = False  # a relative bias of its own for each layer (UMT5)
    shared_projections: bool = False  # distances are projected as the content is (DeBERTa v2)
    norm: bool = False  # the table of distances is normalised (DeBERTa v2)
    segment_relative: bool = False  # XLNet's same-or-different-segment term


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Multi-head attention with grouped keys."""

    num_heads: int = 4
    num_kv_heads: int = 0  # 0: as many as num_heads
    head_dim: int = 0  # 0: width / num_heads
    qkv_bias: bool = True
    key_bias: bool = True  # False: of queries and values only, where qkv_bias (DeBERTa v1)
    out_bias: bool = True
    scale: bool = True  # logits times head_dim ** -.5 (T5: no)
    query_pre_attn_scalar: int = 0  # in place of head_dim there; 0: head_dim (Gemma: query_pre_attn_scalar)
    softcap: float = 0.0  # c tanh(logits / c) (Gemma 2); 0: no cap
    qk_norm: bool = False  # queries and keys are normalised over head_dim before they are rotated (Qwen 3)
    window: int = 0  # keys nearer than this are seen, on both sides where not causal; 0: all
    window_pattern: tuple[int, ...] = ()  # of the layers of a period, repeated (GPT-3, Gemma); (): `window`
    dropout: float = 0.0  # of the attention probabilities


@dataclasses.dataclass(frozen=True)
class FeedForwardConfig:
    """Two matrices around an activation, or three when gated; or a choice among many such networks."""

    ff_dim: int = 0  # 0: 4 * width
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu_tanh"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0  # of the hidden activations (T5)
    num_experts: int = 0  # 0: one network for all tokens
    experts_per_token: int = 2
    capacity_factor: float = (
        0.0  # tokens of a row per expert, over an even share; 0: all that choose it (exact)
    )
    router_aux_weight: float = 0.01  # coefficient of the load-balancing term in the loss


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
class AdapterConfig:
    """What adaptation adds to the parts of a model; 0 is nothing. Adapters are parameters of those parts.

    lora_rank, lora_alpha: W + (alpha / rank) A B in place of the matrices lora_targets: "attention/query",
    key, value, out (of cross-attention too), "feedforward/in", gate, out (Hu et al. 2022). bottleneck_dim:
    width of the bottleneck behind the feed-forward network, and with bottleneck_after_attention behind
    attention too (Houlsby et al. 2019). prefix_length: keys and values before those of self-attention, in
    each layer (Li and Liang 2021). prompt_length: rows of the token table, behind the vocabulary's, that
    stand before a text (Lester et al. 2021). extra_ff_dim: hidden units added to the feed-forward network
    (FL-tuning, Liu et al. 2022).
    """

    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ("attention/query", "attention/value")
    bottleneck_dim: int = 0
    bottleneck_after_attention: bool = True
    prefix_length: int = 0
    prompt_length: int = 0
    extra_ff_dim: int = 0

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(
            (self.lora_rank, self.bottleneck_dim, self.prefix_length, self.prompt_length, self.extra_ff_dim)
        )


LORA_TARGETS = (
    *(f"attention/{name}" for name in ("query", "key", "value", "out")),
    *(f"feedforward/{name}" for name in ("in", "gate", "out")),
)


class Lora(NamedTuple):
    """A low-rank slot of a matrix."""

    rank: int
    scale: float


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Everything one layer needs to know."""

    width: int
    num_layers: int
    block_layout: Literal["pre", "post", "parallel", "sandwich"]
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
    adapters: AdapterConfig = AdapterConfig()
    matmul: str = "dtype"
    width_scale: float = 1.0  # m of models/parametrization.py
    layers_scale: float = 1.0  # l

    @property
    def num_kv_heads(self) -> int:
        return self.attention.num_kv_heads or self.attention.num_heads

    @property
    def head_dim(self) -> int:
        return self.attention.head_dim or self.width // self.attention.num_heads

    @property
    def period(self) -> int:
        """Number of layers after which the pattern repeats."""
        return max(1, len(self.attention.window_pattern))

    def layer(self, place: int) -> "BlockConfig":
        """What the layers at `place` of every period are: their window and the rotation of that kind."""
        windows, position = self.attention.window_pattern, self.position
        window = windows[place] if windows else self.attention.window
        if window and position.local_theta:
            position = dataclasses.replace(position, theta=position.local_theta, scaling=RotaryScaling())
        attention = dataclasses.replace(self.attention, window=window, window_pattern=())
        return dataclasses.replace(self, attention=attention, position=position)

    def lora(self, target: str) -> Lora | None:
        """The slot of a matrix of LORA_TARGETS."""
        adapters = self.adapters
        if not adapters.lora_rank or target not in adapters.lora_targets:
            return None
        return Lora(adapters.lora_rank, adapters.lora_alpha / adapters.lora_rank)

    @property
    def softmax_scale(self) -> float:
        """What attention logits are multiplied by."""
        width = self.attention.query_pre_attn_scalar or self.head_dim
        if self.position.kind == "disentangled":
            width *= 3  # terms of the logits
        return width**-0.5 if self.attention.scale else 1.0

    @property
    def ff_dim(self) -> int:
        return self.feedforward.ff_dim or 4 * self.width

    def std(self, fan_in: int) -> float:
        """Standard deviation of a kernel with `fan_in` inputs."""
        return fan_in**-0.5 if self.init.kind == "fan_in" else self.init.stddev * self.width_scale**-0.5

    def residual_std(self, fan_in: int) -> float:
        """The same for a kernel that writes into the residual stream."""
        layers = self.num_layers / self.layers_scale  # what l does to the stream, initialisation need not
        scale = (2 * layers) ** -0.5 if self.init.scale_residual else 1.0
        return self.std(fan_in) * scale


def compute_dtype(name: str) -> jnp.dtype:
    """ "auto" is bfloat16 on accelerators and float32 on CPU."""
    if name == "auto":
        return jnp.dtype(jnp.float32 if platform() == "cpu" else jnp.bfloat16)
    if name not in ("float32", "bfloat16", "float16"):
        raise ConfigError(one_of("dtype", name, ("auto", "float32", "bfloat16", "float16")))
    return jnp.dtype(name)
