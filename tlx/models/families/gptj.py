"""GPT-J: one LayerNorm before parallel attention and feed-forward, neighbouring dims rotated in pairs."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS,
    Family,
    MappedField,
    SameField,
    TaskClass,
    WeightMapping,
    linear,
    norm,
)
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=50400,
    width=4096,
    num_layers=28,
    block_layout="parallel_shared",
    position=PositionConfig(
        kind="rotary", max_length=2048, rotary_fraction=0.25, rotary_layout="interleaved"
    ),
    attention=AttentionConfig(num_heads=16, qkv_bias=False, out_bias=False),
    feedforward=FeedForwardConfig(ff_dim=16384, activation="gelu_tanh"),
    norm=NormConfig(eps=1e-5),
    head=HeadConfig(tied=False, bias=True),
    init=InitConfig(scale_residual=False),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "transformer.h.{layer}"
    mappings = [
        WeightMapping("model/embedding/table", "transformer.wte.weight", "v d -> v d"),
        WeightMapping("model/output/bias", "lm_head.bias", "v -> v"),
        *norm("model/decoder/final_norm", "transformer.ln_f"),
        *norm(f"{path}/attention_norm", f"{name}.ln_1"),
        *linear(f"{path}/attention/out", f"{name}.attn.out_proj", "d (n h) -> n h d"),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.fc_in", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.fc_out", bias="f"),
    ]
    for projection, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        mappings += linear(f"{path}/attention/{projection}", f"{name}.attn.{letter}_proj", "(n h) d -> d n h")
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


def _read_ff_dim(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"feedforward.ff_dim": values.get("n_inner") or 4 * values.get("n_embd", 4096)}


def _read_rotary(values: Mapping[str, Any]) -> dict[str, Any]:
    head_dim = values.get("n_embd", 4096) // values.get("n_head", 16)
    return {"position.rotary_fraction": (values.get("rotary_dim", 64) or head_dim) / head_dim}


def _write_rotary(config: ModelConfig) -> dict[str, Any]:
    return {"rotary_dim": int(config.block("decoder").head_dim * config.position.rotary_fraction)}


FAMILY = Family(
    name="gpt-j",
    citation="Wang and Komatsuzaki 2021, GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model",
    base=BASE,
    sizes={"6b": BASE},
    rows=rows,
    model_type="gptj",
    architectures={"GPTJForCausalLM": (), "GPTJModel": ()},
    task_classes={
        "GPTJForSequenceClassification": TaskClass("sequence", "score", bias=False),
        "GPTJForQuestionAnswering": TaskClass("span", "qa_outputs"),
    },
    fields=(
        SameField("vocab_size", "vocab_size", 50400),
        SameField("n_positions", "position.max_length", 2048),
        SameField("n_embd", "width", 4096),
        SameField("n_layer", "num_layers", 28),
        SameField("n_head", "attention.num_heads", 16),
        MappedField(("rotary_dim",), _read_rotary, _write_rotary),
        MappedField(("n_inner",), _read_ff_dim, lambda config: {"n_inner": config.block("decoder").ff_dim}),
        SameField("activation_function", "feedforward.activation", "gelu_new", ACTIVATIONS),
        MappedField(
            ("resid_pdrop", "embd_pdrop"),
            lambda values: {"dropout": values.get("resid_pdrop", 0.0)},
            lambda config: {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout},
        ),
        SameField("attn_pdrop", "attention.dropout", 0.0),
        SameField("layer_norm_epsilon", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("tie_word_embeddings", "head.tied", False),
    ),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"\.attn\.(masked_)?bias$", r"attn\.embed_positions$"),
)
