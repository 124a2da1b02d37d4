"""The choices that make a layer: one frozen dataclass per part, values and not subclasses."""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax.numpy as jnp

from tlx.base.errors import ConfigError, one_of
from tlx.base.platform import platform


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """LayerNorm (scale and bias) or RMSNorm (scale), computed in float32; or their scale and bias alone."""

    kind: Literal["layernorm", "rmsnorm", "affine"] = "layernorm"
    """Ba et al. 2016, or Zhang and Sennrich 2019. affine: x * scale + bias without statistics, MobileBERT's NoNorm
    (Sun et al. 2020, 3.3)."""

    eps: float = 1e-5
    """Added to the variance (RMSNorm: to the mean square) before the root."""

    bias: bool = True
    """Whether a LayerNorm or an affine norm has a bias; an RMSNorm never has one."""

    unit_offset: bool = False
    """Multiply by 1 + scale, with a scale that starts from 0 (Gemma), in place of a scale that starts from
    1."""

    before_first_layer: bool = True
    """Whether the first layer has a norm before its attention (ModernBERT: no, its embeddings have
    theirs)."""


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
    """Rotary positions of a model that reads longer sequences than it was first trained on.

    linear: positions / factor (Chen et al. 2023). llama3: wavelengths above original_length / low_freq_factor
    are stretched by `factor`, those below original_length / high_freq_factor are not, and between there is a
    ramp. yarn (Peng et al. 2023): the same between beta_slow and beta_fast turns, with a ramp over dims, and
    queries and keys times an attention factor. dynamic: a base that grows with the longest position of a row,
    beyond original_length. longrope (Ding et al. 2024): a factor for each dim, of one list for rows of up to
    original_length and of another one for longer rows. proportional (Gemma 4): the first pairs of dims alone are
    rotated, at the rates that they have where all pairs are.

    dynamic and longrope depend on the row: all documents of a packed row are rotated alike, and keys in a cache stay
    as they were rotated.
    """

    kind: Literal["none", "linear", "llama3", "yarn", "dynamic", "longrope", "proportional"] = "none"
    """Kind of rotary scaling; none: no scaling."""

    factor: float = 1.0
    """By how much the sequence length grows."""

    low_freq_factor: float = 1.0
    """llama3: turns within original_length up to which a frequency is stretched by the whole factor."""

    high_freq_factor: float = 4.0
    """llama3: turns within original_length from which a frequency is not stretched."""

    original_length: int = 8192
    """llama3, yarn, dynamic, longrope: tokens of the sequences of the first training."""

    beta_fast: float = 32.0
    """yarn: turns within original_length from which a frequency is not stretched."""

    beta_slow: float = 1.0
    """yarn: turns within original_length up to which a frequency is stretched by the whole factor."""

    truncate: bool = True
    """yarn: whether the two dims between which the ramp lies are rounded outwards."""

    attention_factor: float = 0.0
    """yarn, longrope: factor of queries and keys; 0: the formula's, of `factor`."""

    mscale: float = 0.0
    """yarn: coefficient of ln(factor) in the attention factor, divided by that of mscale_all_dim; 0: 1, not
    divided."""

    mscale_all_dim: float = 0.0
    """yarn: the coefficient of the divisor; 0: no divisor."""

    short_factors: tuple[float, ...] = ()
    """longrope: factor of each pair of dims in rows of up to original_length tokens."""

    long_factors: tuple[float, ...] = ()
    """longrope: factor of each pair of dims in longer rows."""

    rotated_fraction: float = 1.0
    """proportional: fraction of the pairs of dims that is rotated, in (0, 1]."""


@dataclasses.dataclass(frozen=True)
class PositionConfig:
    """Position scheme: added to embeddings, rotated into queries and keys, or added to the attention logits.

    learned, sinusoidal: absolute, added to the embeddings. rotary: RoFormer. relative_bias: T5's bias by
    buckets of distances, one table per stack. relative_sinusoidal: Transformer-XL's and XLNet's attention.
    disentangled: DeBERTa's vectors of distances. alibi: a slope for each head times the distance, subtracted
    from the logits (Press et al. 2022).
    """

    kind: Literal[
        "none",
        "learned",
        "sinusoidal",
        "rotary",
        "relative_bias",
        "relative_sinusoidal",
        "disentangled",
        "alibi",
    ] = "learned"
    """Which of these; none: order is visible through the causal mask alone."""

    max_length: int = 1024
    """learned: positions that the table has, which is the longest sequence that the model reads."""

    offset: int = 0
    """learned: first row in use of the table (BART and RoBERTa: 2)."""

    sinusoid_layout: Literal["halves", "interleaved"] = "halves"
    """sinusoidal: all sines before all cosines, or in pairs."""

    sinusoid_offset: int = 0
    """sinusoidal: number of the first position (M2M-100: 2)."""

    theta: float = 10_000.0
    """rotary, sinusoidal, relative_sinusoidal: base of the wavelengths."""

    local_theta: float = 0.0
    """rotary: base of layers with a window, which are not scaled (Gemma 3); 0: theta."""

    scaling: RotaryScaling = dataclasses.field(default_factory=RotaryScaling)
    """rotary: how rotations are slowed down for long sequences."""

    rotary_fraction: float = 1.0
    """rotary: fraction of each head that is rotated, in (0, 1] (GPT-NeoX: 0.25)."""

    rotary_layout: Literal["halves", "interleaved"] = "halves"
    """rotary: a dim is paired with that half of the rotated ones later, or with its neighbour (GPT-J)."""

    rotary_pattern: tuple[bool, ...] = ()
    """rotary: whether queries and keys are rotated, for the layers of a repeating pattern (SmolLM3); ():
    in all layers."""

    num_buckets: int = 32
    """relative_bias, disentangled: rows of distances; 0 (disentangled): one for every distance."""

    max_distance: int = 128
    """relative_bias, disentangled: tokens from which all distances share a row."""

    absolute: bool = False
    """relative_bias: learned positions are added to the embeddings too (MPNet)."""

    per_layer: bool = False
    """relative_bias: a table for each layer in place of one for all (UMT5)."""

    shared_projections: bool = False
    """disentangled: distances are projected by the matrices of the content (DeBERTa v2)."""

    norm: bool = False
    """disentangled: the table of distances is normalised (DeBERTa v2)."""

    segment_relative: bool = False
    """relative_sinusoidal: XLNet's term by whether query and key are of the same segment type."""

    @property
    def max_positions(self) -> int | None:
        """Tokens of the longest sequence that has positions; None: no limit."""
        return self.max_length if self.kind == "learned" or self.absolute else None


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Multi-head attention with grouped keys."""

    num_heads: int = 4
    """Query heads."""

    num_kv_heads: int = 0
    """Key/value heads, a divisor of num_heads; 0: as many as num_heads."""

    head_dim: int = 0
    """Size of a head; 0: width / num_heads."""

    qkv_bias: bool = True
    """Whether queries, keys and values have biases."""

    key_bias: bool = True
    """Whether keys have a bias where qkv_bias is true (DeBERTa v1: no)."""

    out_bias: bool = True
    """Whether the output projection has a bias."""

    scale: bool = True
    """Multiply logits by head_dim ** -0.5 (T5: no)."""

    scale_by_layer: bool = False
    """Divide the logits of a stack's layer by its number, from 1 (a variant of GPT-2); every layer then is
    compiled by itself."""

    query_pre_attn_scalar: int = 0
    """In place of head_dim in that scale (Gemma); 0: head_dim."""

    multiplier: float = 0.0
    """Factor of the logits in place of that scale (Granite); 0: the scale."""

    softcap: float = 0.0
    """c of c tanh(logits / c) (Gemma 2); 0: no cap."""

    qk_norm: bool = False
    """Normalise queries and keys over head_dim before they are rotated (Qwen 3)."""

    qk_norm_scope: Literal["head", "each_head", "all_heads"] = "head"
    """head: one scale for all heads. each_head: a scale for each, no bias (Cohere). all_heads: over all dims of all
    heads together (OLMo 2)."""

    window: int = 0
    """Keys nearer than this many tokens are visible, on both sides where attention is not causal; 0: all."""

    window_pattern: tuple[int, ...] = ()
    """Windows of the layers of a repeating pattern, 0 for all keys (GPT-3, Gemma); (): `window`
    everywhere."""

    wide_encoder: bool = False
    """Whether windows of an encoder-decoder's encoder reach one key further, on both sides, than those of its decoder
    do (T5Gemma)."""

    value_norm: bool = False
    """Divide values by their root mean square over head_dim, without a scale (Gemma 4)."""

    global_head_dim: int = 0
    """Size of a head in layers without a window, whose attention then is another part than that of the layers with
    one (Gemma 4); 0: head_dim."""

    global_kv_heads: int = 0
    """Key/value heads of such layers, a divisor of num_heads; 0: num_kv_heads."""

    global_tied_values: bool = False
    """Whether values of such layers are what keys are before their norm and rotation (Gemma 4)."""

    shared_layers: int = 0
    """Last layers of a decoder that have no keys and values: they attend to those of the last layer before them that
    has a window as they do, or none as they do (Gemma 3n, Gemma 4); 0: none."""

    dropout: float = 0.0
    """Dropout rate of the attention probabilities, in [0, 1); above 0 only kernel "xla" runs."""

    @property
    def windows(self) -> tuple[int, ...]:
        """Windows of the repeating pattern: one where all layers have the same."""
        return self.window_pattern or (self.window,)


@dataclasses.dataclass(frozen=True)
class FeedForwardConfig:
    """Two matrices around an activation, or three when gated; or a mixture of such networks."""

    ff_dim: int = 0
    """Hidden width of the network, of each expert where there are some; 0: 4 * width."""

    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu_tanh"
    """gelu is exact, gelu_tanh its approximation (GPT-2, BERT's original code)."""

    gated: bool = False
    """act(x W_gate) * x W_in in place of act(x W_in) (GLU variants: Llama, T5 1.1)."""

    bias: bool = True
    """Whether the matrices have biases; experts have none."""

    dropout: float = 0.0
    """Dropout rate of the hidden activations (T5), in [0, 1)."""

    absent: bool = False
    """Whether layers have none (Mamba 2): a layer is its mixer alone."""

    shared_multiplier: int = 1
    """Factor of ff_dim in layers without keys and values of their own (attention.shared_layers), whose network then
    is another part than that of the others (Gemma 4: 2), at least 1."""

    num_experts: int = 0
    """Number of experts; 0: one network for all tokens."""

    experts_per_token: int = 2
    """Experts that each token chooses, 1 to num_experts."""

    capacity_factor: float = 0.0
    """Tokens of a row that an expert reads, as a multiple of an even share; 0: all that choose it (exact)."""

    router_aux_weight: float = 0.01
    """Coefficient of the load-balancing term in the loss."""


MIXERS = ("attention", "state_space")
"""Legal values of model.mixer."""


@dataclasses.dataclass(frozen=True)
class StateSpaceConfig:
    """Sizes of the mixer "state_space" (Mamba 2, Dao and Gu 2024): see nn/state_space.py."""

    num_heads: int = 0
    """Heads; 0: 2 * width / head_dim."""

    head_dim: int = 64
    """Size of a head."""

    state_dim: int = 128
    """Size of the state of each of its dims."""

    num_groups: int = 1
    """Groups of heads that share what is written along and what is read along, a divisor of the heads."""

    conv_size: int = 4
    """Tokens that the convolution before the recurrence reads, at least 1."""

    conv_bias: bool = True
    """Whether the convolution has a bias."""

    bias: bool = False
    """Whether the projections have biases."""

    chunk_size: int = 256
    """Tokens that are computed by products, at least 1; it changes speed and memory, never the result."""

    dt_range: tuple[float, float] = (0.001, 0.1)
    """Range of the initial step sizes, whose logarithms are drawn uniformly; above 0."""

    dt_limits: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest step size; 0 as the largest: no limit."""

    def validate(self, width: int) -> None:
        """Raise ConfigError for a value that a model of this width cannot have."""
        sizes = (self.head_dim, self.state_dim, self.num_groups, self.conv_size, self.chunk_size)
        if min(sizes) < 1 or self.num_heads < 0:
            raise ConfigError(
                "model.state_space: head_dim, state_dim, num_groups, conv_size and chunk_size must be 1 or more, and "
                f"num_heads 0 or more; they are {sizes} and {self.num_heads}"
            )
        if not self.num_heads and 2 * width % self.head_dim:
            raise ConfigError(
                f"model.state_space.head_dim = {self.head_dim} does not divide 2 * model.width = {2 * width}; choose "
                "another one, or set model.state_space.num_heads"
            )
        num_heads = self.num_heads or 2 * width // self.head_dim
        if num_heads % self.num_groups:
            divisors = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
            raise ConfigError(
                f"model.state_space.num_groups = {self.num_groups} does not divide its {num_heads} heads; choose one "
                f"of {', '.join(map(str, divisors))}"
            )
        if not 0 < self.dt_range[0] <= self.dt_range[1]:
            raise ConfigError(f"model.state_space.dt_range = {self.dt_range} must rise, from above 0")
        low, high = self.dt_limits
        if low < 0 or (high and high < low):
            raise ConfigError(
                f"model.state_space.dt_limits = {self.dt_limits} must rise, from 0 or more; 0 as the largest is no "
                "limit"
            )


@dataclasses.dataclass(frozen=True)
class BottleneckConfig:
    """Layers that run at another width than that of the stream between them (MobileBERT): see nn/bottleneck.py."""

    width: int = 0
    """Width inside a layer, d, of attention and feed-forward networks; above model.width the layer widens the stream,
    as in MobileBERT's teacher. 0: layers have no bottleneck."""

    attention_input: Literal["projection", "narrow", "stream"] = "projection"
    """Input of attention. projection: queries and keys one more projection of the stream to d, values the stream.
    narrow: all three the layer's own input of width d (MobileBERT-tiny). stream: all three the stream (the
    teacher)."""

    num_feedforwards: int = 4
    """Feed-forward networks of a layer, one after the other, at least 1."""


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """Quantisation-aware training of linear layers and tables (Q8BERT, Q-BERT): see nn/fake_quantized.py.

    Softmax, norms, activation functions, the last layer of a task's head and logits over the vocabulary stay in the
    model's dtype.
    """

    bits: int = 0
    """Bits of activations, and of weights and tables that have no number of their own, 2 to 8 (Q8BERT: 8, as Q-BERT's
    activations); 0: nothing is quantised."""

    weight_bits: int = 0
    """Bits of the kernels of linear layers, 2 to 8 (Q-BERT: 4 or 3); 0: bits."""

    layer_bits: tuple[int, ...] = ()
    """Bits of the kernels of each layer of a stack, in place of weight_bits (Q-BERT's mixed precision; `tlx evaluate
    RUN --curvature` suggests them); every layer is then compiled by itself. (): all alike."""

    table_bits: int = 0
    """Bits of the token table, 2 to 8 (Q-BERT: 4); 0: bits."""

    groups: int = 1
    """Groups of a kernel's or table's outputs, one after the other, each with a range of its own, a divisor of every
    number of outputs (Q-BERT: 128); 1: one range."""

    activations: Literal["average", "dynamic"] = "average"
    """Largest magnitude of the activations that is in range: a moving average over batches, or each batch's own."""

    decay: float = 0.9999
    """average: fraction of the average that a batch leaves, in [0, 1)."""

    integers: bool = False
    """Whether products are of integers, as in inference on hardware that has them; not for training."""

    @property
    def kernel_bits(self) -> int:
        """Bits of kernels; 0: they are not quantised."""
        return self.weight_bits or self.bits


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Initial values of the weights: normal(stddev), or normal(fan_in ** -0.5) (T5)."""

    kind: Literal["normal", "fan_in"] = "normal"
    """Which of the two."""

    stddev: float = 0.02
    """Standard deviation of matrices; fan_in reads it for small tables only."""

    embedding_stddev: float = 0.02
    """Standard deviation of embedding tables."""

    scale_residual: bool = True
    """Divide outputs into the residual stream by sqrt(2 * num_layers) (GPT-2)."""


@dataclasses.dataclass(frozen=True)
class ExecutionConfig:
    """Execution of the layers: it changes speed and memory, never the result."""

    attention: Literal["auto", "xla", "cudnn", "splash", "fused"] = "auto"
    """Attention kernel: xla runs everywhere; cudnn on NVIDIA GPUs; splash (causal, windows) and fused
    (biases, any mask, up to 1024 tokens) on TPUs. auto: the fastest that can run; a named one that cannot
    is an error."""

    remat: str = "none"
    """Activations that the backward pass rematerialises: none, full (each layer), dots (all but matrix products), or
    all but the named tensors, joined by "+" (see nn/stack.py)."""

    unroll: int = 0
    """Layers per iteration of the scan over layers; 0: all of up to 12 on CPU, else one."""


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Adapter modules, which are parameters of the parts that they adapt; 0 is none of a kind."""

    lora_rank: int = 0
    """r of W + (alpha / r) A B in place of the matrices `lora_targets` (Hu et al. 2022); 0: none."""

    lora_alpha: float = 16.0
    """alpha of that scale."""

    lora_dropout: float = 0.0
    """Rate of the dropout of what a low-rank adapter reads, in [0, 1); W reads all of it (Hu et al. 2022)."""

    lora_targets: tuple[str, ...] = ("attention/query", "attention/value")
    """Matrices with low-rank adapters: attention/query, key, value, out (of cross-attention too),
    feedforward/in, gate, out."""

    bottleneck_dim: int = 0
    """Width of the bottleneck after the feed-forward network of each layer (Houlsby et al. 2019); 0: none."""

    bottleneck_after_attention: bool = True
    """Whether there is such a bottleneck after attention too."""

    prefix_length: int = 0
    """Trained keys and values before those of self-attention, in each layer (Li and Liang 2021); 0: none."""

    prefix_hidden: int = 0
    """Hidden width of a network that makes the keys and values of all layers' prefixes of a table of prefix_length
    vectors (Li and Liang 2021: 512; a merge replaces it by what it makes); 0: they are parameters themselves."""

    prompt_length: int = 0
    """Trained token vectors before a text (Lester et al. 2021), ids after the vocabulary's; 0: none."""

    extra_ff_dim: int = 0
    """Hidden units added to the feed-forward network of each layer (FL-tuning, Liu et al. 2022); 0: none."""

    @property
    def any(self) -> bool:
        """Whether there is an adapter of any kind."""
        return any(
            (self.lora_rank, self.bottleneck_dim, self.prefix_length, self.prompt_length, self.extra_ff_dim)
        )


LORA_TARGETS = (
    *(f"attention/{name}" for name in ("query", "key", "value", "out")),
    *(f"feedforward/{name}" for name in ("in", "gate", "out")),
)
"""Matrices that may have a low-rank adapter."""


class Lora(NamedTuple):
    """A low-rank adapter of a matrix."""

    rank: int
    """r, columns of A."""

    scale: float
    """alpha / r."""

    dropout: float = 0.0
    """Rate of the dropout of its input."""

    site: int = 0
    """Dropout site."""


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Everything one layer needs to know, and what is equal for all layers of its stack."""

    width: int
    """Model width D."""

    num_layers: int
    """Layers of the stack, by which outputs into the residual stream are scaled."""

    block_layout: Literal["pre", "post", "parallel", "parallel_shared", "sandwich", "output", "evolved"]
    """Placement of the norms: see nn/block.py; evolved: the cells of nn/evolved.py."""

    dropout: float
    """Dropout rate of what each part adds to the stream."""

    causal: bool
    """Whether self-attention hides later tokens."""

    cross: bool
    """Whether there is cross-attention to an encoder."""

    position: PositionConfig
    """Position scheme."""

    attention: AttentionConfig
    """Heads, scale and windows."""

    feedforward: FeedForwardConfig
    """The network, or its experts."""

    norm: NormConfig
    """LayerNorm or RMSNorm."""

    init: InitConfig
    """Initial values."""

    execution: ExecutionConfig
    """Kernel, rematerialisation and unrolling."""

    dtype: str
    """Of the computation: a concrete name, not "auto"."""

    param_dtype: str
    """Of the parameters."""

    adapters: AdapterConfig = AdapterConfig()
    """Adapter modules."""

    matmul: str = "dtype"
    """Precision of the matrix products of feed-forward networks: see nn/quantized.py."""

    width_scale: float = 1.0
    """m of models/parametrization.py: width over that of the base model."""

    layers_scale: float = 1.0
    """l of models/parametrization.py: depth over that of the base model."""

    residual_multiplier: float = 1.0
    """Factor of what each part adds to the stream."""

    num_layer_groups: int = 1
    """Groups of consecutive layers that share parameters, where layers do."""

    num_group_layers: int = 1
    """Layers of such a group whose parameters differ."""

    layer_number: int = 0
    """Number of the layer in its stack, from 1, where attention.scale_by_layer reads it; 0: no such layer."""

    bottleneck: BottleneckConfig = BottleneckConfig()
    """Bottlenecks around each layer."""

    quantization: QuantizationConfig = QuantizationConfig()
    """Quantisation of linear layers and tables."""

    mixer: tuple[str, ...] = ()
    """Mixers of the layers of the repeating pattern, of MIXERS; (): attention."""

    state_space: StateSpaceConfig = StateSpaceConfig()
    """Sizes of the mixer "state_space"."""

    per_layer_dim: int = 0
    """Size of what the layer reads of a token besides the stream (nn/per_layer.py); 0: it reads nothing else."""

    layer_scalars: bool = False
    """Whether the layer's output is multiplied by a number of its own."""

    attention_part: str = "attention"
    """Name of the layer's self-attention in its block."""

    feedforward_part: str = "feedforward"
    """Name of its feed-forward network."""

    keys: Literal["own", "stored", "shared"] = "own"
    """Keys and values of the layer: its own alone, its own that later layers may attend to, or those of an earlier
    one."""

    @property
    def has_unlike_layers(self) -> bool:
        """Whether layers differ in the sizes of their attention or network, or share keys and values."""
        return bool(self.attention.global_head_dim or self.attention.shared_layers)

    @property
    def layers(self) -> "list[BlockConfig]":
        """The config of each layer of the stack."""
        return [self.layer(index) for index in range(self.num_layers)]

    @property
    def attentions(self) -> dict[str, "BlockConfig"]:
        """Layers that have each self-attention of a block, by its name: the layer itself, where all are alike."""
        if not self.has_unlike_layers:
            return {self.attention_part: self}
        # In the order of the layers: keys come before what shares them.
        first: dict[str, BlockConfig] = {}
        for layer in self.layers:
            first.setdefault(layer.attention_part, layer)
        return first

    @property
    def feedforwards(self) -> dict[str, "BlockConfig"]:
        """Layers that have each feed-forward network of a block, as `attentions`."""
        return {layer.feedforward_part: layer for layer in self.attentions.values()}

    @property
    def unlike_parts(self) -> dict[str, tuple[int, ...]]:
        """Indices of the layers that have a part, for each part that not all layers have because of their sizes."""
        if not self.has_unlike_layers:
            return {}
        owners: dict[str, tuple[int, ...]] = {}
        for index, layer in enumerate(self.layers):
            for name in (layer.attention_part, layer.feedforward_part):
                owners[name] = (*owners.get(name, ()), index)
        return {name: layers for name, layers in owners.items() if len(layers) < self.num_layers}

    @property
    def mixers(self) -> tuple[str, ...]:
        """Kinds of mixers in the pattern, each once."""
        return tuple(dict.fromkeys(self.mixer)) or ("attention",)

    def layers_with(self, mixer: str) -> tuple[int, ...]:
        """Return the indices of the layers of the stack that have a mixer."""
        pattern = self.mixer or ("attention",)
        return tuple(i for i in range(self.num_layers) if pattern[i % len(pattern)] == mixer)

    @property
    def cached_dims(self) -> int:
        """Numbers that all layers together keep of a token as keys, and as many as values."""
        attending = [layer for layer in self.layers if "attention" in layer.mixers and layer.keys != "shared"]
        return sum(layer.num_kv_heads * layer.head_dim for layer in attending)

    @property
    def state_heads(self) -> int:
        """Heads of the mixer "state_space"."""
        return self.state_space.num_heads or 2 * self.width // self.state_space.head_dim

    @property
    def inner_width(self) -> int:
        """Width inside a layer: that of its bottleneck, else D."""
        return self.bottleneck.width or self.width

    @property
    def num_attentions(self) -> int:
        """Self-attentions of a layer, and cross-attentions of one that has any."""
        return 2 if self.block_layout == "evolved" and self.cross else 1

    @property
    def num_kv_heads(self) -> int:
        """Key/value heads G."""
        return self.attention.num_kv_heads or self.attention.num_heads

    @property
    def head_dim(self) -> int:
        """Head size H."""
        return self.attention.head_dim or self.inner_width // self.attention.num_heads

    @property
    def shared_order(self) -> tuple[int, ...]:
        """Index of the stored layer whose parameters each layer has, where several are stored and shared."""
        size = self.num_group_layers
        if self.num_layer_groups == size == 1:
            return ()
        repeats = self.num_layers // (self.num_layer_groups * size)
        return tuple(
            group * size + i
            for group in range(self.num_layer_groups)
            for _ in range(repeats)
            for i in range(size)
        )

    @property
    def period(self) -> int:
        """Number of layers after which windows, rotations and mixers repeat; of all where no two are alike."""
        if self.attention.scale_by_layer or self.quantization.layer_bits:
            return self.num_layers
        patterns = (self.attention.window_pattern, self.position.rotary_pattern, self.mixer)
        return math.lcm(*[len(pattern) or 1 for pattern in patterns])

    def layer(self, place: int) -> "BlockConfig":
        """Return the config of the layer at index `place` of the stack: one window, theta and mixer.

        Where layers share no keys, an index in the repeating pattern will do.
        """
        position = self.position
        windows = self.attention.windows
        window = windows[place % len(windows)]
        if window and position.local_theta:
            position = dataclasses.replace(position, theta=position.local_theta, scaling=RotaryScaling())
        if position.rotary_pattern:
            is_rotated = position.rotary_pattern[place % len(position.rotary_pattern)]
            kind = "rotary" if is_rotated else "none"
            position = dataclasses.replace(position, kind=kind, rotary_pattern=())
        # Without the pattern, so that layers of one kind have equal configs.
        attention = dataclasses.replace(self.attention, window=window, window_pattern=())
        layer_number = place + 1 if self.attention.scale_by_layer else 0
        quantization = self.quantization
        if quantization.layer_bits:
            bits = quantization.layer_bits[place]
            quantization = dataclasses.replace(quantization, weight_bits=bits, layer_bits=())
        mixer = self.mixer and (self.mixer[place % len(self.mixer)],)
        layer = dataclasses.replace(
            self,
            attention=attention,
            position=position,
            layer_number=layer_number,
            quantization=quantization,
            mixer=mixer,
        )
        return layer._of_its_sizes(place) if self.has_unlike_layers else layer

    def _of_its_sizes(self, index: int) -> "BlockConfig":
        """The config of one layer with its own heads and network, of a stack whose layers differ in them."""
        attention = self.attention
        feedforward = self.feedforward
        keys = "own"
        if attention.shared_layers:
            keys = "shared" if index >= self.num_layers - attention.shared_layers else "stored"
        is_wide = keys == "shared" and feedforward.shared_multiplier > 1
        if is_wide:
            feedforward = dataclasses.replace(feedforward, ff_dim=self.ff_dim * feedforward.shared_multiplier)
        # Sizes of this layer take the place of those of the others: equal layers then have equal configs.
        is_global = bool(attention.global_head_dim) and not attention.window
        attention = dataclasses.replace(
            attention,
            head_dim=attention.global_head_dim if is_global else self.head_dim,
            num_kv_heads=(is_global and attention.global_kv_heads) or attention.num_kv_heads,
            global_tied_values=is_global and attention.global_tied_values,
            global_head_dim=0,
            global_kv_heads=0,
            shared_layers=0,
        )
        name = "global_attention" if is_global else "attention"
        return dataclasses.replace(
            self,
            attention=attention,
            feedforward=feedforward,
            attention_part=f"shared_{name}" if keys == "shared" else name,
            feedforward_part="wide_feedforward" if is_wide else "feedforward",
            keys=keys,
        )

    def lora(self, target: str, first_site: int = 0) -> Lora | None:
        """Return the low-rank adapter of a matrix of LORA_TARGETS; None: it has none.

        first_site: dropout site of the first of LORA_TARGETS, which the others follow.
        """
        adapters = self.adapters
        if not adapters.lora_rank or target not in adapters.lora_targets:
            return None
        scale = adapters.lora_alpha / adapters.lora_rank
        site = first_site + LORA_TARGETS.index(target)
        return Lora(adapters.lora_rank, scale, adapters.lora_dropout, site)

    @property
    def shared_kind(self) -> str:
        """Kind of the layers whose keys and values the layer may attend to, where layers share them."""
        return "window" if self.attention.window else "all"

    @property
    def softmax_scale(self) -> float:
        """Factor of the attention logits before the softmax."""
        if self.attention.multiplier:
            return self.attention.multiplier
        width = self.attention.query_pre_attn_scalar or self.head_dim
        if self.position.kind == "disentangled":
            # The logits have three terms: content to content, content to position, position to content.
            width *= 3
        scale = width**-0.5 if self.attention.scale else 1.0
        return scale / self.layer_number if self.layer_number else scale

    @property
    def ff_dim(self) -> int:
        """Hidden width of the feed-forward network, F."""
        return self.feedforward.ff_dim or 4 * self.inner_width

    def inner(self) -> "BlockConfig":
        """Return the config of what runs between a layer's bottlenecks."""
        return dataclasses.replace(self, width=self.inner_width, bottleneck=BottleneckConfig())

    def std(self, fan_in: int) -> float:
        """Return the initial standard deviation of a kernel with `fan_in` inputs."""
        return fan_in**-0.5 if self.init.kind == "fan_in" else self.init.stddev * self.width_scale**-0.5

    def residual_std(self, fan_in: int) -> float:
        """Return the initial standard deviation of a kernel that writes into the residual stream."""
        # CompleteP divides the stream's parts by layers_scale itself; initial values must not do so again.
        base_layers = self.num_layers / self.layers_scale
        scale = (2 * base_layers) ** -0.5 if self.init.scale_residual else 1.0
        return self.std(fan_in) * scale


def compute_dtype(name: str) -> jnp.dtype:
    """Resolve model.dtype: "auto" is bfloat16 on accelerators and float32 on CPU.

    Raises:
        ConfigError: for a name that is none of auto, float32, bfloat16 and float16.
    """
    if name == "auto":
        # CPUs compute bfloat16 by way of float32, more slowly.
        return jnp.dtype(jnp.float32 if platform() == "cpu" else jnp.bfloat16)
    if name not in ("float32", "bfloat16", "float16"):
        raise ConfigError(one_of("dtype", name, ("auto", "float32", "bfloat16", "float16")))
    return jnp.dtype(name)
