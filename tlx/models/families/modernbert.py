"""ModernBERT: a pre-norm encoder with rotary positions, gated feed-forward and mostly local attention."""

from collections.abc import Mapping
from typing import Any, Literal

from tlx.base.errors import ConfigError, one_of
from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS,
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
from tlx.models.families.rope import by_layer_type, kinds_of, parameters_of, scaling_of, windows_of
from tlx.nn.config import (
    AttentionConfig,
    FeedForwardConfig,
    InitConfig,
    NormConfig,
    PositionConfig,
    RotaryScaling,
)
from tlx.nn.embed import EmbeddingConfig

# Hugging Face's window of 128 is 64 tokens on either side and the token itself: 65 in tlx, for each side.
BASE = ModelConfig(
    kind="encoder",
    vocab_size=50368,
    width=768,
    num_layers=22,
    block_layout="pre",
    embedding=EmbeddingConfig(norm=True),
    position=PositionConfig(kind="rotary", max_length=8192, theta=160_000.0, local_theta=10_000.0),
    attention=AttentionConfig(num_heads=12, qkv_bias=False, out_bias=False, window_pattern=(0, 65, 65)),
    feedforward=FeedForwardConfig(ff_dim=1152, activation="gelu", gated=True, bias=False),
    norm=NormConfig(eps=1e-5, bias=False, before_first_layer=False),
    head=HeadConfig(tied=True, transform_bias=False),
    init=InitConfig(scale_residual=True),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; queries, keys and values are packed, and so are gate and input."""
    path = "model/encoder/blocks"
    name = "model.layers.{layer}"
    attention = config.attention
    bias = config.norm.bias
    mappings = [
        WeightMapping("model/embedding/table", "model.embeddings.tok_embeddings.weight", "v d -> v d"),
        *norm("model/encoder/front/norm", "model.embeddings.norm", bias),
        *norm("model/encoder/final_norm", "model.final_norm", bias),
        *norm(f"{path}/feedforward_norm", f"{name}.mlp_norm", bias),
        # The first layer has no norm before attention.
        *(
            WeightMapping(row.path, row.name, first=1)
            for row in norm(f"{path}/attention_norm", f"{name}.attn_norm", bias)
        ),
        *linear("heads/mlm/dense", "head.dense", bias="f" if config.head.transform_bias else ""),
        *norm("heads/mlm/norm", "head.norm", bias),
        WeightMapping("heads/mlm/bias", "decoder.bias", "v -> v"),
    ]
    qkv_bias = "(3 n h)" if attention.qkv_bias else ""
    for index, part in enumerate(("query", "key", "value")):
        mappings += linear(
            f"{path}/attention/{part}", f"{name}.attn.Wqkv", "(3 n h) d -> d n h", qkv_bias, index
        )
    mappings += linear(
        f"{path}/attention/out", f"{name}.attn.Wo", "d (n h) -> n h d", "d" if attention.out_bias else ""
    )
    in_bias = "(2 f)" if config.feedforward.bias else ""
    for index, part in enumerate(("gate", "in")):
        mappings += linear(f"{path}/feedforward/{part}", f"{name}.mlp.Wi", "(2 f) d -> d f", in_bias, index)
    feedforward_bias = "f" if config.feedforward.bias else ""
    return mappings + linear(f"{path}/feedforward/out", f"{name}.mlp.Wo", bias=feedforward_bias)


def read_positions(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read windows and rotary parameters, in the current keys or in the older ones."""
    scaling = dict(values.get("rope_scaling") or {})
    full, local = by_layer_type(values)
    full = scaling | full
    local = scaling | local
    # tlx scales the positions of global layers only: raises the error that names the kind.
    if scaling_of(local).kind != "none":
        scaling_of({"rope_type": f"{local['rope_type']} of layers with a window"})
    period = values.get("global_attn_every_n_layers") or 3
    kinds = values.get("layer_types") or [
        "sliding_attention" if i % period else "full_attention" for i in range(values["num_hidden_layers"])
    ]
    fields = windows_of(kinds, values.get("local_attention", 128) // 2 + 1)
    any_window = any((fields["attention.window"], *fields["attention.window_pattern"]))
    theta = full.get("rope_theta", values.get("global_rope_theta") or 160_000.0)
    local_theta = local.get("rope_theta", values.get("local_rope_theta") or 10_000.0)
    return fields | {
        "position.theta": float(theta),
        "position.scaling": scaling_of(full),
        "position.local_theta": float(local_theta) if any_window else 0.0,
    }


def write_positions(config: ModelConfig) -> dict[str, Any]:
    """Write windows and rotary parameters."""
    position = config.position
    window = max((config.attention.window, *config.attention.window_pattern))
    local = position.local_theta or position.theta
    return {
        "layer_types": kinds_of(config),
        "local_attention": 2 * (window - 1) if window else 128,
        "rope_parameters": {
            "full_attention": parameters_of(position.theta, position.scaling),
            "sliding_attention": parameters_of(local, RotaryScaling()),
        },
    }


def _read_activations(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read both activations; that of the head is set only where it differs from that of the layers."""
    activations = {}
    for key in ("hidden_activation", "classifier_activation"):
        name = values.get(key, "gelu")
        if name not in ACTIVATIONS:
            raise ConfigError("config.json: " + one_of(key, name, ACTIVATIONS))
        activations[key] = ACTIVATIONS[name]
    layers = activations["hidden_activation"]
    head = activations["classifier_activation"]
    return {"feedforward.activation": layers, "head.activation": "" if head == layers else head}


def _write_activations(config: ModelConfig) -> dict[str, Any]:
    # Reversed: of several names of one activation the first is written.
    names = {activation: name for name, activation in reversed(ACTIVATIONS.items())}
    layers = config.feedforward.activation
    return {
        "hidden_activation": names[layers],
        "classifier_activation": names[config.head.activation or layers],
    }


def _task_class(kind: Literal["sequence", "token", "span"], classifier: str) -> TaskClass:
    """Return a class with a head, which begins with the transform of the masked model's head."""
    return TaskClass(
        kind,
        classifier,
        "head.dense",
        activation="gelu",
        activation_key="classifier_activation",
        dense_bias=lambda config: config.head.transform_bias,
        norm="head.norm",
        mean_key="classifier_pooling" if kind == "sequence" else "",
    )


FAMILY = Family(
    name="modernbert",
    citation="Warner et al. 2024, Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder, "
    "arXiv:2412.13663",
    base=BASE,
    sizes={
        "base": BASE,
        "large": resized(BASE, num_layers=28, width=1024, attention__num_heads=16, feedforward__ff_dim=2624),
    },
    rows=rows,
    model_type="modernbert",
    architectures={"ModernBertForMaskedLM": ("heads/mlm",), "ModernBertModel": ()},
    task_classes={
        "ModernBertForSequenceClassification": _task_class("sequence", "classifier"),
        "ModernBertForTokenClassification": _task_class("token", "classifier"),
        "ModernBertForQuestionAnswering": _task_class("span", "classifier"),
    },
    fields=(
        SameField("vocab_size", "vocab_size", 50368),
        SameField("hidden_size", "width", 768),
        SameField("num_hidden_layers", "num_layers", 22),
        SameField("num_attention_heads", "attention.num_heads", 12),
        SameField("intermediate_size", "feedforward.ff_dim", 1152),
        SameField("max_position_embeddings", "position.max_length", 8192),
        SameField("norm_eps", "norm.eps", 1e-5),
        SameField("norm_bias", "norm.bias", False),
        SameField("mlp_bias", "feedforward.bias", False),
        SameField("mlp_dropout", "feedforward.dropout", 0.0),
        SameField("classifier_bias", "head.transform_bias", False),
        SameField("initializer_range", "init.stddev", 0.02),
        MappedField(("hidden_activation", "classifier_activation"), _read_activations, _write_activations),
        MappedField(
            ("attention_bias",),
            lambda values: dict.fromkeys(
                ("attention.qkv_bias", "attention.out_bias"), values.get("attention_bias", False)
            ),
            lambda config: {"attention_bias": config.attention.qkv_bias},
        ),
        MappedField(
            (
                "layer_types",
                "local_attention",
                "global_attn_every_n_layers",
                "rope_parameters",
                "rope_scaling",
                "global_rope_theta",
                "local_rope_theta",
            ),
            read_positions,
            write_positions,
        ),
        # There one rate is for attention probabilities and output, and none for the feed-forward output: only
        # a rate of 0 is the same in tlx.
        FixedField("attention_dropout", (0.0,)),
        FixedField("embedding_dropout", (0.0,)),
        FixedField("decoder_bias", (True,)),
        FixedField("tie_word_embeddings", (True,)),
    ),
    prefix="model.",
    copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
)
