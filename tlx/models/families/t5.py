"""T5 1.0 and 1.1, mT5 and UMT5: encoder-decoders with a relative position bias and no other biases."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError, one_of
from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    TaskClass,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="encoder_decoder",
    vocab_size=32128,
    width=768,
    num_layers=12,
    block_layout="pre",
    dropout=0.1,
    position=PositionConfig(kind="relative_bias"),
    attention=AttentionConfig(
        num_heads=12, head_dim=64, qkv_bias=False, out_bias=False, scale=False, dropout=0.1
    ),
    feedforward=FeedForwardConfig(ff_dim=3072, activation="relu", bias=False, dropout=0.1),
    norm=NormConfig(kind="rmsnorm", eps=1e-6),
    head=HeadConfig(tied=True, scale=True),
    init=InitConfig(kind="fan_in", embedding_stddev=1.0, scale_residual=False),
)
T5_1_1_BASE = resized(
    BASE,
    feedforward__activation="gelu_tanh",
    feedforward__gated=True,
    head__tied=False,
    head__scale=False,
)
MT5_BASE = resized(T5_1_1_BASE, vocab_size=250112)
UMT5_BASE = resized(MT5_BASE, vocab_size=256384, position__per_layer=True)


def size(
    base: ModelConfig, layers: int, width: int, heads: int, hidden: int, head_dim: int = 64
) -> ModelConfig:
    """Resize a model; the decoder has as many layers as the encoder.

    Args:
        base: The model whose other fields are kept.
        layers: Number of layers.
        width: Model width.
        heads: Number of attention heads.
        hidden: Width of the feed-forward.
        head_dim: Size of an attention head.

    Returns:
        The resized model config.
    """
    return resized(
        base,
        num_layers=layers,
        width=width,
        attention__num_heads=heads,
        attention__head_dim=head_dim,
        feedforward__ff_dim=hidden,
    )


def version_1_1_sizes(base: ModelConfig) -> dict[str, ModelConfig]:
    """Return the five sizes of version 1.1."""
    return {
        "small": size(base, 8, 512, 6, 1024),
        "base": size(base, 12, 768, 12, 2048),
        "large": size(base, 24, 1024, 16, 2816),
        "xl": size(base, 24, 2048, 32, 5120),
        "xxl": size(base, 24, 4096, 64, 10240),
    }


def stack(side: str, config: ModelConfig) -> list[WeightMapping]:
    """Return the mappings of one stack; `side` is "encoder" or "decoder"."""
    path = f"model/{side}/blocks"
    name = f"{side}.block.{{layer}}.layer"
    parts = [("attention", 0, "SelfAttention")]
    if side == "decoder":
        parts.append(("cross_attention", 1, "EncDecAttention"))
    last = len(parts)
    mappings = []
    for part, number, module in parts:
        attention = f"{name}.{number}.{module}"
        for projection, letter in (("query", "q"), ("key", "k"), ("value", "v")):
            mappings += linear(f"{path}/{part}/{projection}", f"{attention}.{letter}", "(n h) d -> d n h")
        mappings += linear(f"{path}/{part}/out", f"{attention}.o", "d (n h) -> n h d")
        mappings += norm(f"{path}/{NORMS[part]}", f"{name}.{number}.layer_norm", bias=False)
    mappings += norm(f"{path}/feedforward_norm", f"{name}.{last}.layer_norm", bias=False)
    mappings += norm(f"model/{side}/final_norm", f"{side}.final_layer_norm", bias=False)
    dense = f"{name}.{last}.DenseReluDense"
    mappings += linear(f"{path}/feedforward/out", f"{dense}.wo")
    if config.feedforward.gated:
        mappings += linear(f"{path}/feedforward/gate", f"{dense}.wi_0")
        mappings += linear(f"{path}/feedforward/in", f"{dense}.wi_1")
    else:
        mappings += linear(f"{path}/feedforward/in", f"{dense}.wi")
    bias = "SelfAttention.relative_attention_bias.weight"
    if config.position.per_layer:
        return [*mappings, WeightMapping(f"{path}/attention/position_bias/table", f"{name}.0.{bias}")]
    return [*mappings, WeightMapping(f"model/{side}/position_bias/table", f"{side}.block.0.layer.0.{bias}")]


NORMS = {"attention": "attention_norm", "cross_attention": "cross_norm"}


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    mappings = [WeightMapping("model/embedding/table", "shared.weight", "v d -> v d")]
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return [*mappings, *stack("encoder", config), *stack("decoder", config)]


# "gated-gelu" is the tanh approximation, "gelu" is exact.
ACTIVATIONS = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False),
    "silu": ("silu", False),
    "gated-relu": ("relu", True),
    "gated-silu": ("silu", True),
}


def _read_feedforward(values: Mapping[str, Any], default: str) -> dict[str, Any]:
    name = values.get("feed_forward_proj", default)
    if name not in ACTIVATIONS:
        raise ConfigError("config.json: " + one_of("feed_forward_proj", name, ACTIVATIONS))
    activation, gated = ACTIVATIONS[name]
    return {"feedforward.activation": activation, "feedforward.gated": gated}


def _write_feedforward(config: ModelConfig) -> dict[str, Any]:
    part = config.feedforward
    names = [name for name, value in ACTIVATIONS.items() if value == (part.activation, part.gated)]
    if not names:
        raise ConfigError(
            f"model.feedforward.activation = {part.activation!r}, gated = {part.gated}: T5 has no name for it"
        )
    return {"feed_forward_proj": names[0]}


def fields(proj: str, base: ModelConfig, scale: MappedField) -> tuple:
    """Return the translation of config.json.

    Args:
        proj: Default of feed_forward_proj.
        base: The model with the default vocabulary.
        scale: The field for the scale of the logits.

    Returns:
        The fields.
    """
    return (
        SameField("vocab_size", "vocab_size", base.vocab_size),
        SameField("d_model", "width", 512),
        SameField("d_kv", "attention.head_dim", 64),
        SameField("d_ff", "feedforward.ff_dim", 2048 if proj == "relu" else 1024),
        SameField("num_layers", "num_layers", 6 if proj == "relu" else 8),
        MappedField(
            ("num_decoder_layers",),
            lambda values: {"num_decoder_layers": values.get("num_decoder_layers") or 0},
            lambda config: {"num_decoder_layers": config.decoder_layers},
        ),
        SameField("num_heads", "attention.num_heads", 8 if proj == "relu" else 6),
        SameField("relative_attention_num_buckets", "position.num_buckets", 32),
        SameField("relative_attention_max_distance", "position.max_distance", 128),
        MappedField(
            ("dropout_rate",),
            lambda values: dict.fromkeys(
                ("dropout", "attention.dropout", "feedforward.dropout"), values.get("dropout_rate", 0.1)
            ),
            lambda config: {"dropout_rate": config.dropout},
        ),
        SameField("layer_norm_epsilon", "norm.eps", 1e-6),
        MappedField(
            ("feed_forward_proj", "dense_act_fn", "is_gated_act"),
            lambda values: _read_feedforward(values, proj),
            _write_feedforward,
        ),
        SameField("tie_word_embeddings", "head.tied", True),
        scale,
        FixedField("is_decoder", (False,)),
    )


# T5 1.0 and UMT5 divide the logits by sqrt(width). Either key of config.json can request that.
SCALED = MappedField(
    ("scale_decoder_outputs",),
    lambda values: {
        "head.scale": values.get("scale_decoder_outputs", values.get("tie_word_embeddings", True))
    },
    lambda config: {"scale_decoder_outputs": config.head.scale},
)
NEVER_SCALED = MappedField((), lambda values: {"head.scale": False}, lambda config: {})

COPIES = {
    name: "shared.weight"
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
}
# Files of the first releases have a relative bias of cross-attention, which is never used.
IGNORED = (r"EncDecAttention\.relative_attention_bias\.weight$",)


def _family(
    name: str,
    citation: str,
    base: ModelConfig,
    sizes: dict[str, ModelConfig],
    model_type: str,
    class_prefix: str,
    family_fields: tuple,
) -> Family:
    return Family(
        name=name,
        citation=citation,
        base=base,
        sizes=sizes,
        rows=rows,
        model_type=model_type,
        architectures={f"{class_prefix}ForConditionalGeneration": (), f"{class_prefix}Model": ()},
        task_classes={
            f"{class_prefix}ForSequenceClassification": TaskClass(
                "sequence", "classification_head.out_proj", "classification_head.dense", body="transformer."
            ),
            f"{class_prefix}ForQuestionAnswering": TaskClass("span", "qa_outputs"),
        },
        encoder_class=f"{class_prefix}EncoderModel",
        fields=family_fields,
        copies=COPIES,
        tied_by_tensors=True,
        ignored=IGNORED,
    )


_T5_FIELDS = fields("relu", BASE, SCALED)

FAMILY = _family(
    "t5",
    "Raffel et al. 2020, Exploring the Limits of Transfer Learning, JMLR",
    BASE,
    {
        "small": size(BASE, 6, 512, 8, 2048),
        "base": BASE,
        "large": size(BASE, 24, 1024, 16, 4096),
        "3b": size(BASE, 24, 1024, 32, 16384, 128),
        "11b": size(BASE, 24, 1024, 128, 65536, 128),
    },
    "t5",
    "T5",
    _T5_FIELDS,
)
T5_1_1 = _family(
    "t5-1.1",
    "Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202",
    T5_1_1_BASE,
    version_1_1_sizes(T5_1_1_BASE),
    "t5",
    "T5",
    _T5_FIELDS,
)
MT5 = _family(
    "mt5",
    "Xue et al. 2021, mT5: A Massively Multilingual Pre-trained Text-to-Text Transformer, NAACL",
    MT5_BASE,
    version_1_1_sizes(MT5_BASE),
    "mt5",
    "MT5",
    fields("gated-gelu", MT5_BASE, NEVER_SCALED),
)
UMT5 = _family(
    "umt5",
    "Chung et al. 2023, UniMax: Fairer and More Effective Language Sampling, ICLR",
    UMT5_BASE,
    {name: value for name, value in version_1_1_sizes(UMT5_BASE).items() if name != "large"},
    "umt5",
    "UMT5",
    fields("gated-gelu", UMT5_BASE, SCALED),
)
