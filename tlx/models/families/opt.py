"""OPT: GPT-3's block with learned positions from row 2 on, ReLU, and LLaMA-like names."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
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
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=50272,
    width=768,
    num_layers=12,
    block_layout="pre",
    dropout=0.1,
    position=PositionConfig(kind="learned", max_length=2048, offset=2),
    attention=AttentionConfig(num_heads=12),
    feedforward=FeedForwardConfig(ff_dim=3072, activation="relu"),
    norm=NormConfig(eps=1e-5),
    init=InitConfig(scale_residual=False),
)


def size(layers: int, width: int, heads: int) -> ModelConfig:
    """Resize the base model; the feed-forward has four times the width.

    Args:
        layers: Number of layers.
        width: Model width.
        heads: Number of attention heads.

    Returns:
        The resized model config.
    """
    return resized(
        BASE, num_layers=layers, width=width, attention__num_heads=heads, feedforward__ff_dim=4 * width
    )


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.decoder.layers.{layer}"
    has_bias = config.feedforward.bias
    mappings = [
        WeightMapping("model/embedding/table", "model.decoder.embed_tokens.weight", "v d -> v d"),
        WeightMapping("model/decoder/front/positions", "model.decoder.embed_positions.weight"),
        *norm("model/decoder/final_norm", "model.decoder.final_layer_norm"),
        *norm(f"{path}/attention_norm", f"{name}.self_attn_layer_norm"),
        *norm(f"{path}/feedforward_norm", f"{name}.final_layer_norm"),
        *linear(
            f"{path}/attention/out", f"{name}.self_attn.out_proj", "d (n h) -> n h d", "d" if has_bias else ""
        ),
        *linear(f"{path}/feedforward/in", f"{name}.fc1", bias="f" if has_bias else ""),
        *linear(f"{path}/feedforward/out", f"{name}.fc2", bias="f" if has_bias else ""),
    ]
    for projection, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        mappings += linear(
            f"{path}/attention/{projection}",
            f"{name}.self_attn.{letter}_proj",
            "(n h) d -> d n h",
            "(n h)" if has_bias else "",
        )
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


def _read_projection(values: Mapping[str, Any]) -> dict[str, Any]:
    width = values.get("hidden_size", 768)
    projected = values.get("word_embed_proj_dim") or width
    if projected != width:
        raise ConfigError(
            f"config.json: word_embed_proj_dim = {projected} must be hidden_size = {width}: the projections of the "
            "350m model are not implemented"
        )
    return {}


_BIASES = ("attention.qkv_bias", "attention.out_bias", "feedforward.bias")

FAMILY = Family(
    name="opt",
    citation="Zhang et al. 2022, OPT: Open Pre-trained Transformer Language Models, arXiv:2205.01068",
    base=BASE,
    sizes={
        "125m": BASE,
        "1.3b": size(24, 2048, 32),
        "2.7b": size(32, 2560, 32),
        "6.7b": size(32, 4096, 32),
        "13b": size(40, 5120, 40),
        "30b": size(48, 7168, 56),
        "66b": size(64, 9216, 72),
    },
    rows=rows,
    model_type="opt",
    architectures={"OPTForCausalLM": (), "OPTModel": ()},
    task_classes={
        "OPTForSequenceClassification": TaskClass("sequence", "score", bias=False),
        "OPTForQuestionAnswering": TaskClass("span", "qa_outputs"),
    },
    fields=(
        SameField("vocab_size", "vocab_size", 50272),
        SameField("hidden_size", "width", 768),
        SameField("num_hidden_layers", "num_layers", 12),
        SameField("num_attention_heads", "attention.num_heads", 12),
        SameField("ffn_dim", "feedforward.ff_dim", 3072),
        SameField("max_position_embeddings", "position.max_length", 2048),
        SameField("activation_function", "feedforward.activation", "relu", ACTIVATIONS),
        SameField("dropout", "dropout", 0.1),
        SameField("attention_dropout", "attention.dropout", 0.0),
        SameField("init_std", "init.stddev", 0.02),
        SameField("tie_word_embeddings", "head.tied", True),
        MappedField(
            ("enable_bias",),
            lambda values: dict.fromkeys(_BIASES, values.get("enable_bias", True)),
            lambda config: {"enable_bias": config.feedforward.bias},
        ),
        MappedField(
            ("word_embed_proj_dim",), _read_projection, lambda config: {"word_embed_proj_dim": config.width}
        ),
        FixedField("do_layer_norm_before", (True,)),
        FixedField("_remove_final_layer_norm", (False,)),
        FixedField("layer_norm_elementwise_affine", (True,)),
    ),
    prefix="model.",
    copies={"lm_head.weight": "model.decoder.embed_tokens.weight"},
    # The first release has the decoder alone, without the prefix.
    renamed={r"^decoder\.": "model.decoder."},
)
