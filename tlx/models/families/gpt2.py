"""GPT-2: a pre-norm decoder with learned positions."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS,
    Family,
    FixedField,
    MappedField,
    SameField,
    WeightMapping,
    decoder_task_classes,
    linear,
    norm,
    resized,
)
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=50257,
    width=768,
    num_layers=12,
    block_layout="pre",
    dropout=0.1,
    position=PositionConfig(kind="learned", max_length=1024),
    attention=AttentionConfig(num_heads=12, dropout=0.1),
    feedforward=FeedForwardConfig(ff_dim=3072, activation="gelu_tanh"),
    norm=NormConfig(eps=1e-5),
    init=InitConfig(scale_residual=True),
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
    """Return the key table of a model; matrices are stored as [inputs, outputs]."""
    path = "model/decoder/blocks"
    name = "transformer.h.{layer}"
    mappings = [
        WeightMapping("model/embedding/table", "transformer.wte.weight", "v d -> v d"),
        WeightMapping("model/decoder/front/positions", "transformer.wpe.weight"),
        *norm(f"{path}/attention_norm", f"{name}.ln_1"),
        *norm(f"{path}/feedforward_norm", f"{name}.ln_2"),
        *norm("model/decoder/final_norm", "transformer.ln_f"),
        *linear(f"{path}/attention/out", f"{name}.attn.c_proj", "(n h) d -> n h d", "d"),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.c_fc", "d f -> d f", "f"),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.c_proj", "f d -> f d", "d"),
    ]
    for index, projection in enumerate(("query", "key", "value")):
        mappings += linear(
            f"{path}/attention/{projection}", f"{name}.attn.c_attn", "d (3 n h) -> d n h", "(3 n h)", index
        )
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


def _read_ff_dim(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"feedforward.ff_dim": values.get("n_inner") or 4 * values.get("n_embd", 768)}


def _read_dropout(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"dropout": values.get("resid_pdrop", 0.1)}


FAMILY = Family(
    name="gpt2",
    citation="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    base=BASE,
    sizes={
        "small": BASE,
        "medium": size(24, 1024, 16),
        "large": size(36, 1280, 20),
        "xl": size(48, 1600, 25),
    },
    rows=rows,
    model_type="gpt2",
    architectures={"GPT2LMHeadModel": (), "GPT2Model": ()},
    task_classes=decoder_task_classes("GPT2", "classifier"),
    fields=(
        SameField("vocab_size", "vocab_size", 50257),
        SameField("n_positions", "position.max_length", 1024),
        SameField("n_embd", "width", 768),
        SameField("n_layer", "num_layers", 12),
        SameField("n_head", "attention.num_heads", 12),
        MappedField(("n_inner",), _read_ff_dim, lambda config: {"n_inner": config.block("decoder").ff_dim}),
        SameField("activation_function", "feedforward.activation", "gelu_new", ACTIVATIONS),
        MappedField(
            ("resid_pdrop", "embd_pdrop"),
            _read_dropout,
            lambda config: {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout},
        ),
        SameField("attn_pdrop", "attention.dropout", 0.1),
        SameField("layer_norm_epsilon", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("scale_attn_weights", "attention.scale", True),
        SameField("tie_word_embeddings", "head.tied", True),
        SameField("scale_attn_by_inverse_layer_idx", "attention.scale_by_layer", False),
        FixedField("reorder_and_upcast_attn", (False, True)),  # changes the order of the operations only
        FixedField("add_cross_attention", (False,)),
    ),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"\.attn\.(masked_)?bias$",),
)
