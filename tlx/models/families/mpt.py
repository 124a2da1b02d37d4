"""MPT: GPT-2's block with ALiBi, without biases."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
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

BASE = ModelConfig(
    kind="decoder",
    vocab_size=50432,
    width=4096,
    num_layers=32,
    block_layout="pre",
    position=PositionConfig(kind="alibi", max_length=2048),
    attention=AttentionConfig(num_heads=32, qkv_bias=False, out_bias=False),
    feedforward=FeedForwardConfig(ff_dim=16384, activation="gelu", bias=False),
    norm=NormConfig(eps=1e-5, bias=False),
    init=InitConfig(scale_residual=False),
)

# Values of attn_config that the family supports; those that are absent have the first.
_ATTENTION: dict[str, tuple[Any, ...]] = {
    "alibi": (True,),
    "alibi_bias_max": (8,),
    "attn_type": ("multihead_attention",),
    "clip_qkv": (None,),
    "prefix_lm": (False,),
    "qk_ln": (False,),
    "softmax_scale": (None,),
}


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "transformer.blocks.{layer}"
    mappings = [
        WeightMapping("model/embedding/table", "transformer.wte.weight", "v d -> v d"),
        *norm("model/decoder/final_norm", "transformer.norm_f", bias=False),
        *norm(f"{path}/attention_norm", f"{name}.norm_1", bias=False),
        *norm(f"{path}/feedforward_norm", f"{name}.norm_2", bias=False),
        *linear(f"{path}/attention/out", f"{name}.attn.out_proj", "d (n h) -> n h d"),
        *linear(f"{path}/feedforward/in", f"{name}.ffn.up_proj"),
        *linear(f"{path}/feedforward/out", f"{name}.ffn.down_proj"),
    ]
    for part, projection in enumerate(("query", "key", "value")):
        mappings += linear(
            f"{path}/attention/{projection}", f"{name}.attn.Wqkv", "(3 n h) d -> d n h", part=part
        )
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


def _read_attention(values: Mapping[str, Any]) -> dict[str, Any]:
    given = values.get("attn_config") or {}
    for key, legal in _ATTENTION.items():
        value = given.get(key, legal[0])
        if value not in legal:
            raise ConfigError(
                f"config.json: attn_config.{key} = {value!r} must be {legal[0]!r}: the family mpt has no other"
            )
    return {"attention.dropout": float(given.get("attn_pdrop", 0.0))}


def _write_attention(config: ModelConfig) -> dict[str, Any]:
    values = {key: legal[0] for key, legal in _ATTENTION.items()}
    # Its class has one rate for attention, and for what parts add to the stream.
    return {"attn_config": values | {"attn_pdrop": 0}}


FAMILY = Family(
    name="mpt",
    citation="MosaicML NLP Team 2023, Introducing MPT-7B: A New Standard for Open-Source, Commercially Usable LLMs",
    base=BASE,
    sizes={
        "7b": BASE,
        "30b": resized(
            BASE,
            num_layers=48,
            width=7168,
            attention__num_heads=64,
            feedforward__ff_dim=28672,
            position__max_length=8192,
        ),
    },
    rows=rows,
    model_type="mpt",
    architectures={"MptForCausalLM": (), "MptModel": ()},
    fields=(
        SameField("vocab_size", "vocab_size", 50368),
        MappedField(
            ("d_model",),
            lambda values: {
                "width": values.get("d_model", 2048),
                "feedforward.ff_dim": 4 * values.get("d_model", 2048),
            },
            lambda config: {"d_model": config.width},
        ),
        SameField("n_layers", "num_layers", 24),
        SameField("n_heads", "attention.num_heads", 16),
        SameField("max_seq_len", "position.max_length", 2048),
        SameField("layer_norm_epsilon", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("tie_word_embeddings", "head.tied", True),
        MappedField(("attn_config",), _read_attention, _write_attention),
        FixedField("expansion_ratio", (4,)),
        FixedField("no_bias", (True,)),
        FixedField("logit_scale", (None,)),
        FixedField("embedding_fraction", (1.0, 1)),
    ),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.wte.weight"},
)
