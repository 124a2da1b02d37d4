"""Falcon: parallel attention and feed-forward; queries, keys and values packed by groups of heads."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS,
    Family,
    FixedField,
    MappedField,
    SameField,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.models.families.rope import rope
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=65024,
    width=4544,
    num_layers=32,
    block_layout="parallel_shared",
    position=PositionConfig(kind="rotary", max_length=2048),
    attention=AttentionConfig(num_heads=71, num_kv_heads=1, qkv_bias=False, out_bias=False),
    feedforward=FeedForwardConfig(ff_dim=18176, activation="gelu", bias=False),
    norm=NormConfig(eps=1e-5),
    head=HeadConfig(tied=True),
    init=InitConfig(scale_residual=False),
)
# The larger ones have a norm before each part.
LARGE = resized(BASE, block_layout="parallel", attention__num_kv_heads=8)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; each group is its queries, then its key and its value."""
    path = "model/decoder/blocks"
    name = "transformer.h.{layer}"
    block = config.block("decoder")
    has_bias = config.feedforward.bias
    names = {
        "parallel": ("ln_attn", "ln_mlp"),
        "parallel_shared": ("input_layernorm", ""),
        "pre": ("input_layernorm", "post_attention_layernorm"),
    }
    first, second = names.get(config.block_layout, names["pre"])
    mappings = [
        WeightMapping("model/embedding/table", "transformer.word_embeddings.weight", "v d -> v d"),
        *norm("model/decoder/final_norm", "transformer.ln_f"),
        *norm(f"{path}/attention_norm", f"{name}.{first}"),
        *linear(
            f"{path}/attention/out",
            f"{name}.self_attention.dense",
            "d (n h) -> n h d",
            "d" if has_bias else "",
        ),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.dense_h_to_4h", bias="f" if has_bias else ""),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.dense_4h_to_h", bias="f" if has_bias else ""),
    ]
    if second:
        mappings += norm(f"{path}/feedforward_norm", f"{name}.{second}")
    groups = block.num_kv_heads
    sections = (block.attention.num_heads // groups * block.head_dim, block.head_dim, block.head_dim)
    packed = f"{name}.self_attention.query_key_value"
    for part, projection in enumerate(("query", "key", "value")):
        for kind, pattern in (("kernel", "(n h) d -> d n h"), ("bias", "(n h) -> n h")):
            if kind == "kernel" or has_bias:
                mappings.append(
                    WeightMapping(
                        f"{path}/attention/{projection}/{kind}",
                        f"{packed}.{'weight' if kind == 'kernel' else 'bias'}",
                        pattern,
                        part,
                        sections,
                        groups,
                    )
                )
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


def _read_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the layout and the key heads, of three generations of the architecture."""
    heads = values.get("num_attention_heads", 71)
    is_new = values.get("new_decoder_architecture", False)
    if is_new:
        kv_heads = values.get("num_kv_heads") or heads
        norms = values.get("num_ln_in_parallel_attn") or 2
        layout = "parallel" if norms == 2 else "parallel_shared"
    else:
        kv_heads = 1 if values.get("multi_query", True) else heads
        layout = "parallel_shared" if values.get("parallel_attn", True) else "pre"
    return {"attention.num_kv_heads": kv_heads, "block_layout": layout}


def _write_form(config: ModelConfig) -> dict[str, Any]:
    kv_heads = config.block("decoder").num_kv_heads
    is_new = config.block_layout == "parallel" or kv_heads not in (1, config.attention.num_heads)
    return {
        "new_decoder_architecture": is_new,
        "num_kv_heads": kv_heads,
        "multi_query": kv_heads == 1,
        "parallel_attn": config.block_layout != "pre",
        "num_ln_in_parallel_attn": (2 if config.block_layout == "parallel" else 1) if is_new else None,
    }


def _read_ff_dim(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"feedforward.ff_dim": values.get("ffn_hidden_size") or 4 * values.get("hidden_size", 4544)}


_BIASES = ("attention.qkv_bias", "attention.out_bias", "feedforward.bias")

FAMILY = Family(
    name="falcon",
    citation="Almazrouei et al. 2023, The Falcon Series of Open Language Models, arXiv:2311.16867",
    base=BASE,
    sizes={
        "7b": BASE,
        "40b": resized(LARGE, num_layers=60, width=8192, attention__num_heads=128, feedforward__ff_dim=32768),
        "180b": resized(
            LARGE, num_layers=80, width=14848, attention__num_heads=232, feedforward__ff_dim=59392
        ),
    },
    rows=rows,
    model_type="falcon",
    architectures={"FalconForCausalLM": (), "FalconModel": ()},
    fields=(
        SameField("vocab_size", "vocab_size", 65024),
        SameField("hidden_size", "width", 4544),
        SameField("num_hidden_layers", "num_layers", 32),
        SameField("num_attention_heads", "attention.num_heads", 71),
        MappedField(
            (
                "new_decoder_architecture",
                "num_kv_heads",
                "multi_query",
                "parallel_attn",
                "num_ln_in_parallel_attn",
            ),
            _read_form,
            _write_form,
        ),
        MappedField(
            ("ffn_hidden_size",),
            _read_ff_dim,
            lambda config: {"ffn_hidden_size": config.block("decoder").ff_dim},
        ),
        SameField("activation", "feedforward.activation", "gelu", ACTIVATIONS),
        SameField("layer_norm_epsilon", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("max_position_embeddings", "position.max_length", 2048),
        SameField("tie_word_embeddings", "head.tied", True),
        MappedField(
            ("bias",),
            lambda values: dict.fromkeys(_BIASES, values.get("bias", False)),
            lambda config: {"bias": config.feedforward.bias},
        ),
        # Its class divides these slopes by sqrt(head_dim) (Falcon-RW), and drops out in other places.
        FixedField("alibi", (False,)),
        FixedField("hidden_dropout", (0.0,)),
        FixedField("attention_dropout", (0.0,)),
        FixedField("apply_residual_connection_post_layernorm", (False,)),
        rope(10_000.0),
    ),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
    ignored=(r"rotary\.inv_freq$", r"rotary_emb\.inv_freq$"),
)
