"""LLaMA and LLaMA-2: pre-norm decoders with RMSNorm, rotary positions and a gated feed-forward."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS,
    Family,
    MappedField,
    SameField,
    WeightMapping,
    decoder_task_classes,
    linear,
    norm,
    resized,
    written_name,
)
from tlx.models.families.rope import rope
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=32000,
    width=4096,
    num_layers=32,
    block_layout="pre",
    position=PositionConfig(kind="rotary", max_length=2048),
    attention=AttentionConfig(num_heads=32, qkv_bias=False, out_bias=False),
    feedforward=FeedForwardConfig(ff_dim=11008, activation="silu", gated=True, bias=False),
    norm=NormConfig(kind="rmsnorm", eps=1e-6),
    head=HeadConfig(tied=False),
    init=InitConfig(scale_residual=False),
)

# Hugging Face's files have the half-split order of rotated dims; their conversion permutes Meta's order.
LLAMA2_BASE = resized(BASE, norm__eps=1e-5, position__max_length=4096)


def size(base: ModelConfig, layers: int, width: int, heads: int, hidden: int, **changes: Any) -> ModelConfig:
    """Resize a model.

    Args:
        base: The model whose other fields are kept.
        layers: Number of layers.
        width: Model width.
        heads: Number of attention heads.
        hidden: Width of the feed-forward.
        **changes: Other fields, as in `resized`.

    Returns:
        The resized model config.
    """
    return resized(
        base,
        num_layers=layers,
        width=width,
        attention__num_heads=heads,
        feedforward__ff_dim=hidden,
        **changes,
    )


def attention(path: str, name: str, config: ModelConfig) -> list[WeightMapping]:
    """Return the mappings of attention with modules q_proj, k_proj, v_proj and o_proj.

    Args:
        path: Parameter path of attention.
        name: Name of the Hugging Face module.
        config: The model config, for its biases and norms of queries and keys.

    Returns:
        The mappings.
    """
    bias = "(n h)" if config.attention.qkv_bias else ""
    out_bias = "d" if config.attention.out_bias else ""
    rows = linear(f"{path}/out", f"{name}.o_proj", "d (n h) -> n h d", out_bias)
    for part, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        rows += linear(f"{path}/{part}", f"{name}.{letter}_proj", "(n h) d -> d n h", bias)
    if config.attention.qk_norm:
        rows += norm(f"{path}/query_norm", f"{name}.q_norm", bias=False)
        rows += norm(f"{path}/key_norm", f"{name}.k_norm", bias=False)
    return rows


def has_norm_bias(config: ModelConfig) -> bool:
    """Tell whether the norms of a model have biases."""
    return config.norm.kind == "layernorm" and config.norm.bias


def feedforward(path: str, name: str, config: ModelConfig) -> list[WeightMapping]:
    """Return the mappings of a gated feed-forward.

    Args:
        path: Parameter path of the feed-forward.
        name: Name of the Hugging Face module.
        config: The model config, for its biases.

    Returns:
        The mappings.
    """
    bias = "f" if config.feedforward.bias else ""
    rows = []
    for part, module in (("gate", "gate_proj"), ("in", "up_proj"), ("out", "down_proj")):
        rows += linear(f"{path}/{part}", f"{name}.{module}", bias=bias)
    return rows


def outside(config: ModelConfig) -> list[WeightMapping]:
    """Return the mappings of what is not in a layer: embedding, final norm and output."""
    rows = [
        WeightMapping("model/embedding/table", "model.embed_tokens.weight", "v d -> v d"),
        *norm("model/decoder/final_norm", "model.norm", has_norm_bias(config)),
    ]
    if not config.head.tied:
        rows.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return rows


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    bias = has_norm_bias(config)
    mappings = [
        *outside(config),
        *attention(f"{path}/attention", f"{name}.self_attn", config),
        *feedforward(f"{path}/feedforward", f"{name}.mlp", config),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm", bias),
    ]
    if config.block_layout != "parallel_shared":
        mappings += norm(f"{path}/feedforward_norm", f"{name}.post_attention_layernorm", bias)
    return mappings


def common(activation: str = "hidden_act", eps: float = 1e-6, positions: int = 2048) -> tuple:
    """Return the fields that LLaMA and the families derived from it share, with the sizes of LLaMA's class.

    Args:
        activation: Key of the activation.
        eps: Default of rms_norm_eps.
        positions: Default of max_position_embeddings.

    Returns:
        The fields.
    """
    return fields_of(resized(BASE, norm__eps=eps, position__max_length=positions), activation)


def fields_of(
    defaults: ModelConfig,
    activation: str = "hidden_act",
    eps: str = "rms_norm_eps",
    head_dim: bool = True,
    activations: Mapping[str, str] = ACTIVATIONS,
) -> tuple:
    """Return the fields of a class with LLaMA's keys.

    Args:
        defaults: A model with the values of the class where config.json lacks the key.
        activation: Key of the activation.
        eps: Key of the epsilon of norms.
        head_dim: Whether the class reads the size of a head; else it is width / num_attention_heads.
        activations: {name in config.json: activation}.

    Returns:
        The fields.
    """
    part = defaults.attention
    fields = [
        SameField("vocab_size", "vocab_size", defaults.vocab_size),
        SameField("hidden_size", "width", defaults.width),
        SameField("num_hidden_layers", "num_layers", defaults.num_layers),
        SameField("num_attention_heads", "attention.num_heads", part.num_heads),
        MappedField(
            ("num_key_value_heads",),
            lambda values: {
                "attention.num_kv_heads": values.get("num_key_value_heads", part.num_kv_heads) or 0
            },
            lambda config: {"num_key_value_heads": config.block("decoder").num_kv_heads},
        ),
        SameField("intermediate_size", "feedforward.ff_dim", defaults.feedforward.ff_dim),
        SameField(
            activation,
            "feedforward.activation",
            written_name(activations, defaults.feedforward.activation),
            activations,
        ),
        SameField(eps, "norm.eps", defaults.norm.eps),
        SameField("initializer_range", "init.stddev", defaults.init.stddev),
        SameField("attention_dropout", "attention.dropout", 0.0),
        SameField("max_position_embeddings", "position.max_length", defaults.position.max_length),
        SameField("tie_word_embeddings", "head.tied", defaults.head.tied),
    ]
    if head_dim:
        fields.append(
            MappedField(
                ("head_dim",),
                lambda values: {"attention.head_dim": values.get("head_dim", part.head_dim) or 0},
                lambda config: {"head_dim": config.block("decoder").head_dim},
            )
        )
    return tuple(fields)


ATTENTION_BIAS = MappedField(
    ("attention_bias",),
    lambda values: dict.fromkeys(
        ("attention.qkv_bias", "attention.out_bias"), values.get("attention_bias", False)
    ),
    lambda config: {"attention_bias": config.attention.qkv_bias},
)
IGNORED = (r"rotary_emb\.inv_freq$",)
COPIES = {"lm_head.weight": "model.embed_tokens.weight"}
FIELDS = (*common(), ATTENTION_BIAS, SameField("mlp_bias", "feedforward.bias", False), rope(10_000.0))

FAMILY = Family(
    name="llama",
    citation="Touvron et al. 2023, LLaMA: Open and Efficient Foundation Language Models, arXiv:2302.13971",
    base=BASE,
    sizes={
        "7b": BASE,
        "13b": size(BASE, 40, 5120, 40, 13824),
        "33b": size(BASE, 60, 6656, 52, 17920),
        "65b": size(BASE, 80, 8192, 64, 22016),
    },
    rows=rows,
    model_type="llama",
    architectures={"LlamaForCausalLM": (), "LlamaModel": ()},
    task_classes=decoder_task_classes("Llama", span_body="transformer."),
    fields=FIELDS,
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)

LLAMA2 = Family(
    name="llama2",
    citation="Touvron et al. 2023, Llama 2: Open Foundation and Fine-Tuned Chat Models, arXiv:2307.09288",
    base=LLAMA2_BASE,
    sizes={
        "7b": LLAMA2_BASE,
        "13b": size(LLAMA2_BASE, 40, 5120, 40, 13824),
        "70b": size(LLAMA2_BASE, 80, 8192, 64, 28672, attention__num_kv_heads=8),
    },
    rows=rows,
    model_type="llama",
    architectures=FAMILY.architectures,
    task_classes=FAMILY.task_classes,
    fields=FIELDS,
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
