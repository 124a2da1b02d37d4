"""GPT-Neo: GPT-2's block with unscaled attention, windows on every second layer and GPT-2's tokenizer."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
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
)
from tlx.models.families.rope import shortest_pattern
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=50257,
    width=2048,
    num_layers=24,
    block_layout="pre",
    position=PositionConfig(kind="learned", max_length=2048),
    attention=AttentionConfig(num_heads=16, qkv_bias=False, scale=False, window_pattern=(0, 256)),
    feedforward=FeedForwardConfig(ff_dim=8192, activation="gelu_tanh"),
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
    name = "transformer.h.{layer}"
    attention = f"{name}.attn.attention"
    mappings = [
        WeightMapping("model/embedding/table", "transformer.wte.weight", "v d -> v d"),
        WeightMapping("model/decoder/front/positions", "transformer.wpe.weight"),
        *norm("model/decoder/final_norm", "transformer.ln_f"),
        *norm(f"{path}/attention_norm", f"{name}.ln_1"),
        *norm(f"{path}/feedforward_norm", f"{name}.ln_2"),
        *linear(f"{path}/attention/out", f"{attention}.out_proj", "d (n h) -> n h d", "d"),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.c_fc", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.c_proj", bias="f"),
    ]
    for projection, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        mappings += linear(f"{path}/attention/{projection}", f"{attention}.{letter}_proj", "(n h) d -> d n h")
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


def _read_ff_dim(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"feedforward.ff_dim": values.get("intermediate_size") or 4 * values.get("hidden_size", 2048)}


def _read_windows(values: Mapping[str, Any]) -> dict[str, Any]:
    types = values.get("attention_types") or [[["global", "local"], values.get("num_layers", 24) // 2]]
    kinds = [kind for pattern, times in types for _ in range(times) for kind in pattern]
    window = values.get("window_size", 256)
    pattern = shortest_pattern([window if kind == "local" else 0 for kind in kinds])
    if len(pattern) == 1:
        return {"attention.window": pattern[0], "attention.window_pattern": ()}
    return {"attention.window": 0, "attention.window_pattern": pattern}


def _write_windows(config: ModelConfig) -> dict[str, Any]:
    windows = config.attention.windows
    kinds = ["local" if windows[i % len(windows)] else "global" for i in range(config.num_layers)]
    return {
        "attention_types": [[kinds, 1]],
        "attention_layers": kinds,
        "window_size": max(windows) or 256,
    }


FAMILY = Family(
    name="gpt-neo",
    citation="Black et al. 2021, GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow",
    base=BASE,
    sizes={"125m": size(12, 768, 12), "1.3b": BASE, "2.7b": size(32, 2560, 20)},
    rows=rows,
    model_type="gpt_neo",
    architectures={"GPTNeoForCausalLM": (), "GPTNeoModel": ()},
    task_classes=decoder_task_classes("GPTNeo", "classifier"),
    fields=(
        SameField("vocab_size", "vocab_size", 50257),
        SameField("max_position_embeddings", "position.max_length", 2048),
        SameField("hidden_size", "width", 2048),
        SameField("num_layers", "num_layers", 24),
        SameField("num_heads", "attention.num_heads", 16),
        MappedField(
            ("intermediate_size",),
            _read_ff_dim,
            lambda config: {"intermediate_size": config.block("decoder").ff_dim},
        ),
        MappedField(("attention_types", "attention_layers", "window_size"), _read_windows, _write_windows),
        SameField("activation_function", "feedforward.activation", "gelu_new", ACTIVATIONS),
        MappedField(
            ("resid_dropout", "embed_dropout"),
            lambda values: {"dropout": float(values.get("resid_dropout", 0.0))},
            lambda config: {"resid_dropout": config.dropout, "embed_dropout": config.dropout},
        ),
        MappedField(
            ("attention_dropout",),
            lambda values: {"attention.dropout": float(values.get("attention_dropout", 0.0))},
            lambda config: {"attention_dropout": config.attention.dropout},
        ),
        SameField("layer_norm_epsilon", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("tie_word_embeddings", "head.tied", True),
    ),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"\.attn\.attention\.(masked_)?bias$",),
)
