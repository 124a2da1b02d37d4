"""A model as a value: BERT, T5, XLNet and Llama differ in these fields and in nothing else."""

import dataclasses
from typing import Literal

from tlx.base.errors import ConfigError, one_of
from tlx.models import parametrization
from tlx.models.parametrization import ParametrizationConfig
from tlx.nn.config import (
    LORA_TARGETS,
    AdapterConfig,
    AttentionConfig,
    BlockConfig,
    ExecutionConfig,
    FeedForwardConfig,
    InitConfig,
    NormConfig,
    PositionConfig,
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

    tied: bool = True  # the token table is the output kernel
    bias: bool = False
    scale: bool = False  # logits times width ** -.5 (T5 1.0)
    transform: bool = True  # a masked model's: dense, activation and norm before the table (XLM: none)
    transform_bias: bool = True  # of its dense layer (ModernBERT: none)
    activation: Literal["", "gelu", "gelu_tanh", "relu", "silu"] = ""  # of the transform; "": as the layers'
    softcap: float = 0.0  # c tanh(logits / c) (Gemma 2); 0: no cap


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the parameters and the function; `execution` only how it is computed."""

    kind: Kind = "decoder"
    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 128  # the table has this multiple of rows; the rest are masked
    width: int = 128
    num_layers: int = 4
    num_decoder_layers: int = 0  # of an encoder-decoder; 0: num_layers
    block_layout: Literal["pre", "post", "parallel", "sandwich"] = "pre"
    share_layers: bool = False  # one layer's parameters for all (ALBERT)
    dropout: float = 0.0
    embedding: EmbeddingConfig = dataclasses.field(default_factory=EmbeddingConfig)
    position: PositionConfig = dataclasses.field(default_factory=PositionConfig)
    attention: AttentionConfig = dataclasses.field(default_factory=AttentionConfig)
    feedforward: FeedForwardConfig = dataclasses.field(default_factory=FeedForwardConfig)
    norm: NormConfig = dataclasses.field(default_factory=NormConfig)
    head: HeadConfig = dataclasses.field(default_factory=HeadConfig)
    recurrent: RecurrentConfig = dataclasses.field(default_factory=RecurrentConfig)  # of a bilstm
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    adapters: AdapterConfig = dataclasses.field(default_factory=AdapterConfig)
    parametrization: ParametrizationConfig = dataclasses.field(default_factory=ParametrizationConfig)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the computation
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    matmul: Literal["dtype", "int8", "fp8"] = "dtype"  # of feed-forward networks: nn/quantized.py
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    @property
    def padded_vocab(self) -> int:
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def decoder_layers(self) -> int:
        return self.num_decoder_layers or self.num_layers

    def block(self, stack: Literal["encoder", "decoder"]) -> BlockConfig:
        """The layer of a stack: what it shares with the other one, and whether it is causal and crossed."""
        both, scales = self.kind == "encoder_decoder", parametrization.scales(self)
        return BlockConfig(
            width=self.width,
            num_layers=self.decoder_layers if both and stack == "decoder" else self.num_layers,
            block_layout=self.block_layout,
            dropout=self.dropout,
            causal=stack == "decoder",
            cross=both and stack == "decoder",
            position=self.position,
            attention=self.attention,
            feedforward=self.feedforward,
            norm=self.norm,
            init=self.init,
            execution=self.execution,
            dtype=str(compute_dtype(self.dtype)),
            param_dtype=self.param_dtype,
            adapters=self.adapters,
            matmul=self.matmul,
            width_scale=scales.width,
            layers_scale=scales.layers,
        )

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is allowed."""
        attention, position = self.attention, self.position
        heads, kv_heads = attention.num_heads, attention.num_kv_heads or attention.num_heads
        for name in ("width", "num_layers", "vocab_multiple"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} = {getattr(self, name)} must be at least 1")
        if heads < 1 or (not attention.head_dim and self.width % heads):
            legal = [n for n in range(1, self.width + 1) if self.width % n == 0]
            raise ConfigError(
                f"model.attention.num_heads = {heads} does not divide model.width = {self.width}; "
                f"choose one of {_short(legal)} or set model.attention.head_dim"
            )
        if heads % kv_heads:
            legal = [n for n in range(1, heads + 1) if heads % n == 0]
            raise ConfigError(
                f"model.attention.num_kv_heads = {kv_heads} does not divide num_heads = {heads}; "
                f"choose one of {_short(legal)}"
            )
        if (self.kind == "two_stream") != (
            position.kind == "relative_sinusoidal" and self.kind == "two_stream"
        ):
            raise ConfigError(
                f"model.position.kind = {position.kind!r}: a two_stream model needs 'relative_sinusoidal'"
            )
        if self.kind == "two_stream" and self.block_layout != "post":
            raise ConfigError(f"model.block_layout = {self.block_layout!r}: a two_stream model needs 'post'")
        if self.head.tied and self.embedding.width and self.kind != "encoder":
            raise ConfigError("model.head.tied with model.embedding.width is for encoders; set tied = False")
        for name, rate in (("dropout", self.dropout), ("attention.dropout", attention.dropout)):
            if not 0 <= rate < 1:
                raise ConfigError(f"model.{name} = {rate} must be in [0, 1)")
        if self.block_layout == "sandwich" and self.kind != "decoder":
            raise ConfigError(f"model.block_layout = 'sandwich' is for decoders, not for {self.kind!r}")
        self._validate_layers()
        self._validate_clusters()
        self._validate_recurrent()
        _check_slots(self)
        parametrization.check(self)
        remat_policy(self.execution.remat)
        check_matmul(self.matmul)
        if self.matmul != "dtype" and (self.feedforward.num_experts or self.kind == "bilstm"):
            raise ConfigError(
                f"model.matmul = {self.matmul!r}: products of experts and of a bilstm are in model.dtype; "
                "choose 'dtype'"
            )

    def _validate_recurrent(self) -> None:
        """The sizes of a bilstm; its width, layers and dropout are those of any model."""
        part = self.recurrent
        filters = part.characters.filters
        if part.cell_dim < 1 or part.characters.width < 1 or not filters or min(map(min, filters)) < 1:
            raise ConfigError(
                f"model.recurrent.cell_dim = {part.cell_dim}, characters.width = {part.characters.width}, "
                f"characters.filters = {filters}: all must be 1 or more, and filters one or more"
            )
        if min(part.cell_clip, part.projection_clip, part.characters.num_highways) < 0:
            raise ConfigError("model.recurrent: clips and characters.num_highways must be 0 (none) or more")
        if self.kind == "bilstm" and self.parametrization.name != "standard":
            raise ConfigError(
                f"model.parametrization.name = {self.parametrization.name!r}: a bilstm has 'standard' alone"
            )

    def _validate_clusters(self) -> None:
        """What a vocabulary in clusters goes with."""
        part, head = self.embedding, self.head
        if part.divisor < 1 or self.width // part.divisor ** len(part.cutoffs) < 1:
            raise ConfigError(
                f"model.embedding.divisor = {part.divisor} must be 1 or more, and leave the last of "
                f"{len(part.cutoffs) + 1} clusters something of model.width = {self.width}"
            )
        if not part.cutoffs:
            return
        edges = (0, *part.cutoffs, self.vocab_size or part.cutoffs[-1] + 1)
        if any(b <= a for a, b in zip(edges[:-1], edges[1:], strict=True)):
            raise ConfigError(
                f"model.embedding.cutoffs = {part.cutoffs} must rise, from above 0 to below the vocabulary's "
                f"size, {self.vocab_size or 'the tokenizer says which'}"
            )
        plain = not (part.width or head.scale or head.softcap) and self.parametrization.name == "standard"
        if self.kind != "decoder" or not plain:
            raise ConfigError(
                f"model.embedding.cutoffs = {part.cutoffs}: an adaptive softmax is for decoders, without "
                "embedding.width, head.scale, head.softcap and another parametrization than 'standard'"
            )

    def _validate_layers(self) -> None:
        """What experts, windows, distances and a first layer unlike the rest go with."""
        attention, position = self.attention, self.position
        experts, chosen = self.feedforward.num_experts, self.feedforward.experts_per_token
        if experts and not 1 <= chosen <= experts:
            raise ConfigError(
                f"model.feedforward.experts_per_token = {chosen} must be 1 to num_experts = {experts}"
            )
        if experts and self.feedforward.bias:
            raise ConfigError("model.feedforward.bias = True: experts have none; set it to False")
        if experts and self.kind not in ("encoder", "decoder"):
            raise ConfigError(f"model.feedforward.num_experts = {experts}: not for kind = {self.kind!r}")
        plain = self.kind == "encoder" and not (self.share_layers or experts)
        if not self.norm.before_first_layer and not (
            plain and self.block_layout == "pre" and self.num_layers > 1
        ):
            raise ConfigError(
                "model.norm.before_first_layer = False: only an encoder with block_layout = 'pre' and "
                "several layers, without share_layers and experts, can leave out its first norm"
            )
        windows = (attention.window, *attention.window_pattern)
        if min(windows) < 0:
            raise ConfigError(f"model.attention.window = {windows[0]}, windows = {windows[1:]}; 0 is none")
        if attention.window_pattern and self.kind == "two_stream":
            raise ConfigError("model.attention.window_pattern: a two_stream model has no windows")
        if position.local_theta and not any(windows):
            raise ConfigError(f"model.position.local_theta = {position.local_theta}: no layer has a window")
        if self.kind != "encoder" and (position.kind == "disentangled" or self.embedding.conv_kernel_size):
            raise ConfigError(
                f"model.kind = {self.kind!r}: disentangled positions and a convolution are for encoders"
            )
        if self.embedding.conv_kernel_size and (
            self.share_layers or self.num_layers < 2 or attention.window_pattern
        ):
            raise ConfigError(
                "model.embedding.conv_kernel_size joins the first of several layers that share nothing; "
                "model.share_layers and attention.window_pattern do not go with it"
            )


def _check_slots(model: ModelConfig) -> None:
    adapters = model.adapters
    for name in ("lora_rank", "bottleneck_dim", "prefix_length", "prompt_length", "extra_ff_dim"):
        if getattr(adapters, name) < 0:
            raise ConfigError(f"model.adapters.{name} = {getattr(adapters, name)} must not be negative")
    for target in adapters.lora_targets:
        if target not in LORA_TARGETS:
            raise ConfigError(one_of("model.adapters.lora_targets", target, LORA_TARGETS))
    inside = [target for target in adapters.lora_targets if target.startswith("feedforward")]
    if model.feedforward.num_experts and (adapters.extra_ff_dim or (adapters.lora_rank and inside)):
        raise ConfigError(
            "model.adapters: experts have no adapters; use those of attention, not extra_ff_dim or "
            f"lora_targets = {adapters.lora_targets}"
        )


def _short(values: list[int]) -> str:
    shown = values if len(values) <= 12 else values[:6] + values[-6:]
    return ", ".join(map(str, shown))
