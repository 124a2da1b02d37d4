"""A model as a value: BERT, T5, XLNet and Llama differ in these fields and in nothing else."""

import dataclasses
from typing import Literal, NamedTuple

from tlx.base.errors import ConfigError, one_of
from tlx.models.config_checks import (
    check_evolved,
    check_prefix_network,
    check_quantization,
    check_unlike_layers,
    divisors,
    short,
)
from tlx.nn.config import (
    LORA_TARGETS,
    MIXERS,
    AdapterConfig,
    AttentionConfig,
    BlockConfig,
    BottleneckConfig,
    ExecutionConfig,
    FeedForwardConfig,
    InitConfig,
    NormConfig,
    PositionConfig,
    QuantizationConfig,
    StateSpaceConfig,
    compute_dtype,
)
from tlx.nn.embed import EmbeddingConfig
from tlx.nn.quantized import check as check_matmul
from tlx.nn.recurrent import RecurrentConfig
from tlx.nn.stack import remat_policy

Kind = Literal["encoder", "decoder", "encoder_decoder", "two_stream", "bilstm"]


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """From hidden states to vocabulary logits."""

    tied: bool = True
    """Whether the token table is the output kernel."""

    half_tied: bool = False
    """Whether the output kernel of a tied head is the narrow token table beside a kernel of its own for the other
    dims of model.width (MobileBERT)."""

    bias: bool = False
    """Whether logits have a bias."""

    scale: bool = False
    """Multiply logits by width ** -0.5 (T5 1.0)."""

    multiplier: float = 1.0
    """Multiply logits by this (Cohere; Granite divides by the inverse)."""

    transform: bool = True
    """Of a masked model: a dense layer, activation and norm before the output kernel (XLM: none)."""

    transform_bias: bool = True
    """Whether that dense layer has a bias (ModernBERT: no)."""

    masked_bias: bool = True
    """Of a masked model: whether its logits have a bias of their own (EuroBERT: no)."""

    activation: Literal["", "gelu", "gelu_tanh", "relu", "silu"] = ""
    """Activation of that transform; "": feedforward.activation."""

    pooler: bool = True
    """Whether a dense layer with tanh stands between an encoder's first token and the classifier of two segments
    (BERT; the released MobileBERT: no)."""

    softcap: float = 0.0
    """c of c tanh(logits / c) (Gemma 2); 0: no cap."""

    hidden_transform: bool = False
    """Of a decoder: the same transform of hidden states, before the output kernel and whatever else reads them
    (ModernBERT's decoder)."""

    absent: bool = False
    """Whether there is no output layer, as in an imported bare model: logits over the vocabulary are an error."""


@dataclasses.dataclass(frozen=True)
class ParametrizationConfig:
    """Dependence of initial values and learning rates on the model's size: see models/parametrization.py."""

    name: Literal["standard", "mup", "completep"] = "standard"
    """standard: not at all. mup: on the width (Yang et al. 2022). completep: on width and depth (Dey et al.
    2025)."""

    base_width: int = 128
    """Width at which mup and completep are the standard parametrisation, at least 1."""

    base_layers: int = 4
    """Number of layers at which completep is the standard parametrisation, at least 1."""


class Scales(NamedTuple):
    """Ratios of a model's size to the base of its parametrisation."""

    width: float = 1.0
    """m, width / base_width; 1 in the standard parametrisation."""

    layers: float = 1.0
    """l, layers / base_layers; 1 but in completep."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the parameters and the function; `execution` only how it is computed."""

    kind: Kind = "decoder"
    """Shape of the model: Transformer encoder, decoder or both, XLNet's two streams, or ELMo's LSTMs."""

    vocab_size: int = 0
    """Number of ids; 0: the tokenizer's."""

    vocab_multiple: int = 128
    """The token table has a multiple of this many rows, at least 1; ids beyond vocab_size are masked."""

    width: int = 128
    """Size of hidden states, D."""

    num_layers: int = 4
    """Layers of the stack; of the encoder in an encoder-decoder."""

    num_decoder_layers: int = 0
    """Layers of the decoder in an encoder-decoder; 0: num_layers."""

    num_decoder_heads: int = 0
    """Query heads of the decoder in an encoder-decoder; 0: attention.num_heads."""

    source_encoder_layers: int = 0
    """Layers of another encoder in an encoder-decoder, with a token table of its own, whose hidden states the encoder
    reads in place of token vectors (BART for translation; Lewis et al. 2020, 3.4); 0: none."""

    decoder_ff_dim: int = 0
    """Hidden width of the decoder's feed-forward networks in an encoder-decoder; 0: feedforward.ff_dim."""

    block_layout: Literal["pre", "post", "parallel", "parallel_shared", "sandwich", "output", "evolved"] = (
        "pre"
    )
    """Placement of the norms. pre: x + part(norm(x)). post: norm(x + part(x)). parallel: attention and
    feed-forward read the same x, each through a norm of its own; parallel_shared: through one norm. sandwich:
    x + norm(part(norm(x))), and output: x + norm(part(x)), both of decoders. evolved: the Evolved Transformer's
    cells, of an encoder-decoder, with norms as in pre; they fix activations and hidden widths (nn/evolved.py)."""

    residual_multiplier: float = 1.0
    """Factor of what each part adds to the stream (Granite); not for block_layout "post"."""

    layer_scalars: bool = False
    """Whether the output of each layer is multiplied by a number of its own, from a checkpoint and not learned
    (Gemma 4); of decoders with block_layout "sandwich"."""

    share_layers: bool = False
    """One layer's parameters for all layers (ALBERT)."""

    num_layer_groups: int = 1
    """With share_layers: number of groups of consecutive layers, each of which has parameters of its own, 1 to
    num_layers."""

    num_group_layers: int = 1
    """With share_layers: layers of a group whose parameters differ, and which it repeats in turn."""

    dropout: float = 0.0
    """Dropout rate of embeddings and of what each part adds to the stream, in [0, 1)."""

    embedding: EmbeddingConfig = dataclasses.field(default_factory=EmbeddingConfig)
    """The token table and what is added to it."""

    position: PositionConfig = dataclasses.field(default_factory=PositionConfig)
    """Position scheme."""

    attention: AttentionConfig = dataclasses.field(default_factory=AttentionConfig)
    """Heads, scale and windows."""

    mixer: tuple[str, ...] = ()
    """Of a decoder: "attention" or "state_space", for the layers of a repeating pattern; (): attention in all."""

    state_space: StateSpaceConfig = dataclasses.field(default_factory=StateSpaceConfig)
    """Sizes of the mixer "state_space" (Mamba 2)."""

    feedforward: FeedForwardConfig = dataclasses.field(default_factory=FeedForwardConfig)
    """The position-wise network, or its experts."""

    norm: NormConfig = dataclasses.field(default_factory=NormConfig)
    """LayerNorm or RMSNorm."""

    bottleneck: BottleneckConfig = dataclasses.field(default_factory=BottleneckConfig)
    """Bottlenecks around each layer of an encoder."""

    head: HeadConfig = dataclasses.field(default_factory=HeadConfig)
    """From hidden states to logits."""

    recurrent: RecurrentConfig = dataclasses.field(default_factory=RecurrentConfig)
    """Cells and character encoder of a bilstm."""

    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    """Initial values."""

    adapters: AdapterConfig = dataclasses.field(default_factory=AdapterConfig)
    """Adapter modules."""

    parametrization: ParametrizationConfig = dataclasses.field(default_factory=ParametrizationConfig)
    """Dependence of initial values and learning rates on the size."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the computation; auto: bfloat16 on accelerators, float32 on CPU."""

    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the parameters."""

    matmul: Literal["dtype", "int8", "fp8"] = "dtype"
    """Precision of the matrix products of feed-forward networks: `dtype`, or in 8 bits (see nn/quantized.py)."""

    quantization: QuantizationConfig = dataclasses.field(default_factory=QuantizationConfig)
    """Fake quantisation of linear layers and tables in training, and products of integers in inference."""

    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)
    """Kernel, rematerialisation and unrolling: no parameter and no result depends on them."""

    @property
    def padded_vocab(self) -> int:
        """Rows of the token table: vocab_size rounded up to a multiple of vocab_multiple."""
        # Rounded up by floor division of the negative.
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_decoder_layers or self.num_layers

    @property
    def scales(self) -> Scales:
        """The ratios m and l of models/parametrization.py."""
        part = self.parametrization
        if part.name == "standard":
            return Scales()
        layers = self.num_layers / part.base_layers if part.name == "completep" else 1.0
        return Scales(width=self.width / part.base_width, layers=layers)

    def block(self, stack: Literal["encoder", "decoder"]) -> BlockConfig:
        """Return the config of a stack's layers; a decoder's are causal and may attend to an encoder."""
        is_decoder = stack == "decoder"
        is_encoder_decoder = self.kind == "encoder_decoder"
        attention = self.attention
        feedforward = self.feedforward
        if is_encoder_decoder and is_decoder:
            num_heads = self.num_decoder_heads or attention.num_heads
            attention = dataclasses.replace(attention, num_heads=num_heads)
            ff_dim = self.decoder_ff_dim or feedforward.ff_dim
            feedforward = dataclasses.replace(feedforward, ff_dim=ff_dim)
        elif is_encoder_decoder and attention.wide_encoder:
            attention = dataclasses.replace(
                attention,
                window=attention.window and attention.window + 1,
                window_pattern=tuple(window and window + 1 for window in attention.window_pattern),
            )
        return BlockConfig(
            width=self.width,
            num_layers=self.decoder_layers if is_encoder_decoder and is_decoder else self.num_layers,
            block_layout=self.block_layout,
            dropout=self.dropout,
            causal=is_decoder,
            cross=is_encoder_decoder and is_decoder,
            position=self.position,
            attention=attention,
            feedforward=feedforward,
            norm=self.norm,
            init=self.init,
            execution=self.execution,
            dtype=str(compute_dtype(self.dtype)),
            param_dtype=self.param_dtype,
            adapters=self.adapters,
            matmul=self.matmul,
            width_scale=self.scales.width,
            layers_scale=self.scales.layers,
            residual_multiplier=self.residual_multiplier,
            num_layer_groups=self.num_layer_groups,
            num_group_layers=self.num_group_layers,
            bottleneck=self.bottleneck,
            quantization=self.quantization,
            mixer=self.mixer,
            state_space=self.state_space,
            per_layer_dim=self.embedding.per_layer_dim,
            layer_scalars=self.layer_scalars,
        )

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        _check_sizes(self)
        _check_kind(self)
        _check_mixers(self)
        check_unlike_layers(self)
        _check_experts(self)
        _check_first_norm(self)
        _check_sharing(self)
        _check_windows(self)
        _check_positions(self)
        _check_encoder_parts(self)
        _check_bottleneck(self)
        check_evolved(self)
        _check_clusters(self)
        _check_recurrent(self)
        _check_adapters(self)
        _check_parametrization(self)
        # Raises for an unknown policy.
        remat_policy(self.execution.remat)
        _check_matmul(self)
        check_quantization(self)


def _check_sizes(model: ModelConfig) -> None:
    """Widths, heads and rates."""
    for name in ("width", "num_layers", "vocab_multiple"):
        if getattr(model, name) < 1:
            raise ConfigError(f"model.{name} = {getattr(model, name)} must be at least 1")
    attention = model.attention
    _check_heads(model, "attention.num_heads", attention.num_heads)
    for name in ("num_decoder_heads", "decoder_ff_dim"):
        size = getattr(model, name)
        if size and (size < 0 or model.kind != "encoder_decoder"):
            raise ConfigError(
                f"model.{name} = {size} must be 0, or at least 1 in an encoder_decoder, not in {model.kind!r}"
            )
    if model.source_encoder_layers:
        _check_source_encoder(model)
    if model.num_decoder_heads:
        _check_heads(model, "num_decoder_heads", model.num_decoder_heads)
    if attention.scale_by_layer and model.kind not in ("encoder", "decoder"):
        raise ConfigError(f"model.attention.scale_by_layer = True: not for kind = {model.kind!r}")
    for name, rate in (("dropout", model.dropout), ("attention.dropout", attention.dropout)):
        if not 0 <= rate < 1:
            raise ConfigError(f"model.{name} = {rate} must be in [0, 1)")


def _check_source_encoder(model: ModelConfig) -> None:
    """Raise ConfigError where a second encoder has nothing to stand in front of, or cannot be joined to it."""
    is_plain = not (model.embedding.width or model.adapters.prompt_length or model.share_layers)
    if model.source_encoder_layers < 0 or model.kind != "encoder_decoder" or not is_plain:
        raise ConfigError(
            f"model.source_encoder_layers = {model.source_encoder_layers} must be 0, or at least 1 in an "
            "encoder_decoder without embedding.width, adapters.prompt_length and share_layers"
        )
    if model.parametrization.name == "completep":
        raise ConfigError(
            f"model.source_encoder_layers = {model.source_encoder_layers}: not with parametrization.name = "
            "'completep', whose stacks have one depth"
        )


def _check_heads(model: ModelConfig, name: str, heads: int) -> None:
    """Raise ConfigError where a number of query heads does not divide the width, or has no groups of keys."""
    attention = model.attention
    kv_heads = attention.num_kv_heads or heads
    field = "bottleneck.width" if model.bottleneck.width else "width"
    width = model.bottleneck.width or model.width
    if heads < 1 or (not attention.head_dim and width % heads):
        raise ConfigError(
            f"model.{name} = {heads} does not divide model.{field} = {width}; "
            f"choose one of {short(divisors(width))} or set model.attention.head_dim"
        )
    if heads % kv_heads:
        raise ConfigError(
            f"model.attention.num_kv_heads = {kv_heads} does not divide {name.rpartition('.')[-1]} = {heads}; "
            f"choose one of {short(divisors(heads))}"
        )


def _check_kind(model: ModelConfig) -> None:
    """Raise ConfigError where two streams, tied heads or sandwich norms are combined with what they exclude."""
    if model.kind == "two_stream" and model.position.kind != "relative_sinusoidal":
        raise ConfigError(
            f"model.position.kind = {model.position.kind!r}: a two_stream model needs 'relative_sinusoidal'"
        )
    if model.kind == "two_stream" and model.block_layout != "post":
        raise ConfigError(f"model.block_layout = {model.block_layout!r}: a two_stream model needs 'post'")
    if model.head.tied and model.embedding.width and model.kind != "encoder":
        raise ConfigError("model.head.tied with model.embedding.width is for encoders; set tied = False")
    if model.block_layout == "output" and model.kind != "decoder":
        raise ConfigError(f"model.block_layout = 'output' is for decoders, not for {model.kind!r}")
    if model.block_layout == "sandwich" and model.kind not in ("decoder", "encoder_decoder"):
        raise ConfigError(
            f"model.block_layout = 'sandwich' is for decoders and encoder-decoders, not for {model.kind!r}"
        )
    if model.embedding.encoder_table and (model.kind != "encoder_decoder" or model.source_encoder_layers):
        raise ConfigError(
            "model.embedding.encoder_table = True needs model.kind = 'encoder_decoder', and no source_encoder_layers"
        )
    if model.head.hidden_transform and model.kind != "decoder":
        raise ConfigError(f"model.head.hidden_transform = True is for decoders, not for {model.kind!r}")
    if model.block_layout == "parallel_shared" and model.kind not in ("encoder", "decoder"):
        raise ConfigError(f"model.block_layout = 'parallel_shared' is not for kind = {model.kind!r}")
    if model.residual_multiplier != 1.0 and model.block_layout == "post":
        raise ConfigError(
            f"model.residual_multiplier = {model.residual_multiplier}: not with block_layout = 'post'"
        )


def _check_mixers(model: ModelConfig) -> None:
    """Raise ConfigError where state spaces, or layers without a feed-forward network, exclude another part."""
    for mixer in model.mixer:
        if mixer not in MIXERS:
            raise ConfigError(one_of("model.mixer", mixer, MIXERS))
    is_absent = model.feedforward.absent
    has_states = "state_space" in model.mixer
    if not (model.mixer or is_absent):
        return
    name = f"model.mixer = {model.mixer}" if model.mixer else "model.feedforward.absent = True"
    if model.kind != "decoder" or model.block_layout != "pre" or model.share_layers:
        raise ConfigError(f"{name} needs model.kind = 'decoder', block_layout = 'pre' and no share_layers")
    if is_absent and model.feedforward.num_experts:
        raise ConfigError("model.feedforward.absent = True: num_experts must be 0")
    adapters = model.adapters
    if is_absent and (adapters.bottleneck_dim or adapters.extra_ff_dim):
        raise ConfigError(f"{name}: adapters.bottleneck_dim and extra_ff_dim need a feed-forward network")
    kinds = {target.partition("/")[0] for target in adapters.lora_targets} if adapters.lora_rank else set()
    lacks_attention = has_states and "attention" not in model.mixer
    if ("attention" in kinds and lacks_attention) or ("feedforward" in kinds and is_absent):
        raise ConfigError(
            f"{name}: the model has no matrix of adapters.lora_targets = {adapters.lora_targets}; the state space's "
            "have no low-rank adapters"
        )
    if has_states:
        _check_state_space(model)


def _check_state_space(model: ModelConfig) -> None:
    model.state_space.validate(model.width)
    positions = ("none", "learned", "sinusoidal", "rotary")
    if model.position.kind not in positions:
        raise ConfigError(
            f"model.position.kind = {model.position.kind!r} with model.mixer = {model.mixer}: it must be one of "
            f"{', '.join(positions)}"
        )
    if model.adapters.prefix_length or model.quantization.bits or model.parametrization.name != "standard":
        raise ConfigError(
            f"model.mixer = {model.mixer}: not with adapters.prefix_length, quantization.bits and another "
            "parametrization.name than 'standard'"
        )


def _check_experts(model: ModelConfig) -> None:
    part = model.feedforward
    if not part.num_experts:
        return
    if not 1 <= part.experts_per_token <= part.num_experts:
        raise ConfigError(
            f"model.feedforward.experts_per_token = {part.experts_per_token} must be 1 to "
            f"num_experts = {part.num_experts}"
        )
    if part.bias:
        raise ConfigError("model.feedforward.bias = True: experts have none; set it to False")
    if model.kind not in ("encoder", "decoder"):
        raise ConfigError(
            f"model.feedforward.num_experts = {part.num_experts}: not for kind = {model.kind!r}"
        )


def _check_first_norm(model: ModelConfig) -> None:
    """Raise ConfigError where a first layer without a norm before its attention cannot be used."""
    if model.norm.before_first_layer:
        return
    is_separate = not model.share_layers and not model.feedforward.num_experts
    is_stack = model.kind in ("encoder", "decoder")
    if not is_stack or not is_separate or model.block_layout != "pre" or model.num_layers < 2:
        raise ConfigError(
            "model.norm.before_first_layer = False: only an encoder or decoder with block_layout = 'pre' and several "
            "layers, without share_layers and experts, can leave out its first norm"
        )


def _check_sharing(model: ModelConfig) -> None:
    """Raise ConfigError where groups of layers with shared parameters do not divide the layers."""
    groups = model.num_layer_groups
    size = model.num_group_layers
    if groups == size == 1:
        return
    is_stack = model.kind in ("encoder", "decoder") and model.share_layers
    if min(groups, size) < 1 or not is_stack or model.num_layers % (groups * size):
        raise ConfigError(
            f"model.num_layer_groups = {groups}, num_group_layers = {size}: their product must divide "
            f"model.num_layers = {model.num_layers}, and model.share_layers be True in an encoder or decoder"
        )


def _check_windows(model: ModelConfig) -> None:
    attention = model.attention
    # 0 stands for an empty pattern.
    if min(attention.window, *attention.window_pattern, 0) < 0:
        raise ConfigError(
            f"model.attention.window = {attention.window}, window_pattern = {attention.window_pattern} must "
            "not be negative; 0 is none"
        )
    if attention.window_pattern and model.kind == "two_stream":
        raise ConfigError("model.attention.window_pattern: a two_stream model has no windows")
    has_window = attention.window or any(attention.window_pattern)
    if attention.wide_encoder and model.kind != "encoder_decoder":
        raise ConfigError("model.attention.wide_encoder = True needs model.kind = 'encoder_decoder'")
    if model.position.local_theta and not has_window:
        raise ConfigError(f"model.position.local_theta = {model.position.local_theta}: no layer has a window")


def _check_positions(model: ModelConfig) -> None:
    """Raise ConfigError where layers without rotation or factors for each dim are combined with what they exclude."""
    position = model.position
    if position.absolute and position.kind != "relative_bias":
        raise ConfigError(
            f"model.position.absolute = True needs position.kind = 'relative_bias', not {position.kind!r}"
        )
    if position.rotary_pattern and (position.kind != "rotary" or model.kind == "two_stream"):
        raise ConfigError(
            f"model.position.rotary_pattern = {position.rotary_pattern} needs position.kind = 'rotary'"
        )
    if model.kind == "two_stream" or position.kind != "rotary":
        return
    scaling = position.scaling
    if scaling.kind == "longrope":
        # Not block().head_dim: that asks JAX for the platform, which processes that have yet to meet must not do.
        head_dim = model.attention.head_dim or model.width // model.attention.num_heads
        pairs = int(head_dim * position.rotary_fraction) // 2
        for name in ("short_factors", "long_factors"):
            if len(getattr(scaling, name)) != pairs:
                raise ConfigError(
                    f"model.position.scaling.{name} has {len(getattr(scaling, name))} values: it needs a factor for "
                    f"each of {pairs} pairs of rotated dims"
                )


def _check_encoder_parts(model: ModelConfig) -> None:
    """DeBERTa's parts: disentangled positions and a convolution."""
    convolution = model.embedding.conv_kernel_size
    if model.kind != "encoder" and (model.position.kind == "disentangled" or convolution):
        raise ConfigError(
            f"model.kind = {model.kind!r}: disentangled positions and a convolution are for encoders"
        )
    if convolution and (model.share_layers or model.num_layers < 2 or model.attention.window_pattern):
        raise ConfigError(
            "model.embedding.conv_kernel_size joins the first of several layers that share nothing; "
            "model.share_layers and attention.window_pattern do not go with it"
        )


def _check_bottleneck(model: ModelConfig) -> None:
    """Raise ConfigError where MobileBERT's parts are combined with what they exclude."""
    part = model.bottleneck
    is_encoder = model.kind == "encoder"
    if part.width < 0 or part.num_feedforwards < 1:
        raise ConfigError(
            f"model.bottleneck.width = {part.width}, num_feedforwards = {part.num_feedforwards}: the width must be 0 "
            "(none) or more, and the networks 1 or more"
        )
    is_plain = not (model.feedforward.num_experts or model.adapters.bottleneck_dim)
    is_absolute = model.position.kind in ("none", "learned", "sinusoidal")
    if part.width and not (is_encoder and is_plain and is_absolute and model.block_layout == "post"):
        raise ConfigError(
            f"model.bottleneck.width = {part.width}: only an encoder with block_layout = 'post' and position.kind = "
            "'learned', 'sinusoidal' or 'none', without experts and adapters.bottleneck_dim, has bottlenecks"
        )
    if part.width and model.parametrization.name != "standard":
        raise ConfigError(
            f"model.parametrization.name = {model.parametrization.name!r}: layers with bottlenecks have 'standard'"
        )
    if model.embedding.neighbors and (not is_encoder or model.embedding.cutoffs):
        raise ConfigError("model.embedding.neighbors = True is for encoders, which see the next token")
    if model.head.half_tied and not (
        is_encoder and model.head.tied and 0 < model.embedding.width < model.width
    ):
        raise ConfigError(
            f"model.head.half_tied = True needs an encoder with head.tied = True and embedding.width between 0 and "
            f"model.width = {model.width}, not {model.embedding.width}"
        )


def _check_clusters(model: ModelConfig) -> None:
    """Raise ConfigError where a vocabulary in clusters cannot be used."""
    part = model.embedding
    head = model.head
    if part.divisor < 1 or model.width // part.divisor ** len(part.cutoffs) < 1:
        raise ConfigError(
            f"model.embedding.divisor = {part.divisor} must be 1 or more, and leave the last of "
            f"{len(part.cutoffs) + 1} clusters something of model.width = {model.width}"
        )
    if not part.cutoffs:
        return
    # Without a size the last edge is checked when the tokenizer is known.
    edges = (0, *part.cutoffs, model.vocab_size or part.cutoffs[-1] + 1)
    if any(later <= earlier for earlier, later in zip(edges[:-1], edges[1:], strict=True)):
        raise ConfigError(
            f"model.embedding.cutoffs = {part.cutoffs} must rise, from above 0 to below the vocabulary's "
            f"size, {model.vocab_size or 'the tokenizer says which'}"
        )
    is_plain = not (part.width or head.scale or head.softcap or head.multiplier != 1.0)
    if model.kind != "decoder" or not is_plain or model.parametrization.name != "standard":
        raise ConfigError(
            f"model.embedding.cutoffs = {part.cutoffs}: an adaptive softmax is for decoders, without "
            "embedding.width, head.scale, head.multiplier, head.softcap and another parametrization than 'standard'"
        )


def _check_recurrent(model: ModelConfig) -> None:
    """The sizes of a bilstm; its width, layers and dropout are those of any model."""
    part = model.recurrent
    filters = part.characters.filters
    if part.cell_dim < 1 or part.characters.width < 1 or not filters or min(map(min, filters)) < 1:
        raise ConfigError(
            f"model.recurrent.cell_dim = {part.cell_dim}, characters.width = {part.characters.width}, "
            f"characters.filters = {filters}: all must be 1 or more, and filters one or more"
        )
    if min(part.cell_clip, part.projection_clip, part.characters.num_highways) < 0:
        raise ConfigError("model.recurrent: clips and characters.num_highways must be 0 (none) or more")
    reach = max(size for size, _ in filters)
    if part.characters.max_characters < max(reach, 3):
        raise ConfigError(
            f"model.recurrent.characters.max_characters = {part.characters.max_characters} must be at least 3, and "
            f"as many as a filter reads, {reach}"
        )
    if model.kind == "bilstm" and model.parametrization.name != "standard":
        raise ConfigError(
            f"model.parametrization.name = {model.parametrization.name!r}: a bilstm has 'standard' alone"
        )


def _check_adapters(model: ModelConfig) -> None:
    adapters = model.adapters
    for name in (
        "lora_rank",
        "bottleneck_dim",
        "prefix_length",
        "prefix_hidden",
        "prompt_length",
        "extra_ff_dim",
    ):
        if getattr(adapters, name) < 0:
            raise ConfigError(f"model.adapters.{name} = {getattr(adapters, name)} must not be negative")
    check_prefix_network(model)
    if not 0 <= adapters.lora_dropout < 1:
        raise ConfigError(
            f"model.adapters.lora_dropout = {adapters.lora_dropout} must be at least 0 and below 1"
        )
    for target in adapters.lora_targets:
        if target not in LORA_TARGETS:
            raise ConfigError(one_of("model.adapters.lora_targets", target, LORA_TARGETS))
    # Experts' kernels are no Linear modules, which alone have adapters.
    in_feedforward = [target for target in adapters.lora_targets if target.startswith("feedforward")]
    if model.feedforward.num_experts and (adapters.extra_ff_dim or (adapters.lora_rank and in_feedforward)):
        raise ConfigError(
            "model.adapters: experts have no adapters; use those of attention, not extra_ff_dim or "
            f"lora_targets = {adapters.lora_targets}"
        )


def _check_parametrization(model: ModelConfig) -> None:
    part = model.parametrization
    for name in ("base_width", "base_layers"):
        if getattr(part, name) < 1:
            raise ConfigError(f"model.parametrization.{name} = {getattr(part, name)} must be 1 or more")
    if part.name != "completep":
        return
    if model.block_layout not in ("pre", "parallel", "parallel_shared"):
        raise ConfigError(
            f"model.parametrization.name = 'completep' with model.block_layout = {model.block_layout!r}: "
            "only 'pre', 'parallel' and 'parallel_shared' have a residual stream to scale"
        )
    if model.kind == "encoder_decoder" and model.decoder_layers != model.num_layers:
        raise ConfigError(
            f"model.num_decoder_layers = {model.num_decoder_layers}: model.parametrization.name = "
            f"'completep' needs two stacks of equal depth, {model.num_layers} layers"
        )


def _check_matmul(model: ModelConfig) -> None:
    check_matmul(model.matmul)
    if model.matmul != "dtype" and (model.feedforward.num_experts or model.kind == "bilstm"):
        raise ConfigError(
            f"model.matmul = {model.matmul!r}: products of experts and of a bilstm are in model.dtype; "
            "choose 'dtype'"
        )
