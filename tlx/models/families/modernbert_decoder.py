"""ModernBERT as a decoder (Ettin): causal, with windows on one side and a transform before the output."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families import modernbert
from tlx.models.families.family import (
    Family,
    MappedField,
    SameField,
    WeightMapping,
    linear,
    norm,
    resized,
)

# Hugging Face's window of 128 is 64 tokens before the token, itself included: none is after it.
BASE = resized(
    modernbert.BASE,
    kind="decoder",
    attention__window_pattern=(0, 64, 64),
    head__hidden_transform=True,
    head__bias=True,
)


def size(layers: int, width: int, heads: int, hidden: int) -> ModelConfig:
    """Resize the base model.

    Args:
        layers: Number of layers.
        width: Model width.
        heads: Number of attention heads.
        hidden: Width of the feed-forward.

    Returns:
        The resized model config.
    """
    return resized(
        BASE, num_layers=layers, width=width, attention__num_heads=heads, feedforward__ff_dim=hidden
    )


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model: the encoder's, with queries, keys and values apart."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    attention = config.attention
    bias = config.norm.bias
    packed = "(2 f)" if config.feedforward.bias else ""
    mappings = [
        WeightMapping("model/embedding/table", "model.embeddings.tok_embeddings.weight", "v d -> v d"),
        *norm("model/decoder/front/norm", "model.embeddings.norm", bias),
        *norm("model/decoder/final_norm", "model.final_norm", bias),
        *norm(f"{path}/feedforward_norm", f"{name}.mlp_norm", bias),
        # The first layer has no norm before attention.
        *(
            WeightMapping(row.path, row.name, first=1)
            for row in norm(f"{path}/attention_norm", f"{name}.attn_norm", bias)
        ),
        *linear(
            "model/hidden_transform/dense", "lm_head.dense", bias="f" if config.head.transform_bias else ""
        ),
        *norm("model/hidden_transform/norm", "lm_head.norm", bias),
        *linear(
            f"{path}/attention/out", f"{name}.attn.Wo", "d (n h) -> n h d", "d" if attention.out_bias else ""
        ),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.Wo", bias="f" if config.feedforward.bias else ""),
    ]
    if config.head.bias:
        mappings.append(WeightMapping("model/output/bias", "decoder.bias", "v -> v"))
    for part, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        mappings += linear(
            f"{path}/attention/{part}",
            f"{name}.attn.{letter}_proj",
            "(n h) d -> d n h",
            "(n h)" if attention.qkv_bias else "",
        )
    for part, matrix in enumerate(("gate", "in")):
        mappings += linear(f"{path}/feedforward/{matrix}", f"{name}.mlp.Wi", "(2 f) d -> d f", packed, part)
    return mappings


def _window(value: int) -> int:
    """The window of a layer with windows on both sides, as that of one side."""
    return value - 1


def _read_positions(values: Mapping[str, Any]) -> dict[str, Any]:
    changes = modernbert.read_positions(values)
    pattern = changes["attention.window_pattern"]
    window = changes["attention.window"]
    return changes | {
        "attention.window": window and _window(window),
        "attention.window_pattern": tuple(size and _window(size) for size in pattern),
    }


def _write_positions(config: ModelConfig) -> dict[str, Any]:
    values = modernbert.write_positions(config)
    window = max((config.attention.window, *config.attention.window_pattern))
    return values | {"local_attention": 2 * window if window else 128}


FAMILY = Family(
    name="modernbert-decoder",
    citation="Weller et al. 2025, Seq vs Seq: An Open Suite of Paired Encoders and Decoders, arXiv:2507.11412",
    base=BASE,
    sizes={
        "150m": BASE,
        "17m": size(7, 256, 4, 384),
        "32m": size(10, 384, 6, 576),
        "68m": size(19, 512, 8, 768),
        "400m": size(28, 1024, 16, 2624),
        "1b": size(28, 1792, 28, 3840),
    },
    rows=rows,
    model_type="modernbert-decoder",
    architectures={"ModernBertDecoderForCausalLM": ()},
    fields=(
        *(
            MappedField(field.keys, _read_positions, _write_positions)
            if isinstance(field, MappedField) and "layer_types" in field.keys
            else field
            for field in modernbert.FAMILY.fields
            if getattr(field, "key", "") != "decoder_bias"
        ),
        SameField("decoder_bias", "head.bias", True),
    ),
    prefix="model.",
    copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
)
