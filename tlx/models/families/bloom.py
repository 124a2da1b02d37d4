"""BLOOM: GPT-2's block with ALiBi and a norm of the embeddings."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=250880,
    width=1024,
    num_layers=24,
    block_layout="pre",
    embedding=EmbeddingConfig(norm=True),
    position=PositionConfig(kind="alibi", max_length=2048),
    attention=AttentionConfig(num_heads=16),
    feedforward=FeedForwardConfig(ff_dim=4096, activation="gelu_tanh"),
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
    """Return the key table of a model; queries, keys and values are packed head by head."""
    path = "model/decoder/blocks"
    name = "transformer.h.{layer}"
    mappings = [
        WeightMapping("model/embedding/table", "transformer.word_embeddings.weight", "v d -> v d"),
        *norm("model/decoder/front/norm", "transformer.word_embeddings_layernorm"),
        *norm("model/decoder/final_norm", "transformer.ln_f"),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm"),
        *norm(f"{path}/feedforward_norm", f"{name}.post_attention_layernorm"),
        *linear(f"{path}/attention/out", f"{name}.self_attention.dense", "d (n h) -> n h d", "d"),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.dense_h_to_4h", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.dense_4h_to_h", bias="f"),
    ]
    for part, projection in enumerate(("query", "key", "value")):
        mappings += linear(
            f"{path}/attention/{projection}",
            f"{name}.self_attention.query_key_value",
            "(n 3 h) d -> d n h",
            "(n 3 h)",
            part,
        )
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


def _read_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sizes, in the current keys or in those of the releases."""
    width = values.get("n_embed") or values.get("hidden_size", 64)
    return {
        "width": width,
        "num_layers": values.get("n_layer", values.get("num_hidden_layers", 2)),
        "attention.num_heads": values.get("n_head", values.get("num_attention_heads", 8)),
        "feedforward.ff_dim": 4 * width,
    }


def _write_sizes(config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "n_layer": config.num_layers,
        "n_head": config.attention.num_heads,
    }


FAMILY = Family(
    name="bloom",
    citation="BigScience 2022, BLOOM: A 176B-Parameter Open-Access Multilingual Language Model, arXiv:2211.05100",
    base=BASE,
    sizes={
        "560m": BASE,
        "1.1b": size(24, 1536, 16),
        "1.7b": size(24, 2048, 16),
        "3b": size(30, 2560, 32),
        "7.1b": size(30, 4096, 32),
        "176b": size(70, 14336, 112),
    },
    rows=rows,
    model_type="bloom",
    architectures={"BloomForCausalLM": (), "BloomModel": ()},
    fields=(
        SameField("vocab_size", "vocab_size", 250880),
        MappedField(
            ("hidden_size", "n_embed", "n_layer", "num_hidden_layers", "n_head", "num_attention_heads"),
            _read_sizes,
            _write_sizes,
        ),
        SameField("layer_norm_epsilon", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("attention_dropout", "attention.dropout", 0.0),
        SameField("tie_word_embeddings", "head.tied", True),
        # Its class does not drop embeddings out.
        FixedField("hidden_dropout", (0.0,)),
        FixedField("apply_residual_connection_post_layernorm", (False,)),
        FixedField("n_inner", (None,)),
    ),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
)
