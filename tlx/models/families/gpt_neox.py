"""GPT-NeoX, the architecture of Pythia and Polyglot-Ko: parallel attention and feed-forward."""

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
    decoder_task_classes,
    linear,
    norm,
    resized,
)
from tlx.models.families.rope import parameters_of, scaling_of
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=50432,
    width=6144,
    num_layers=44,
    block_layout="parallel",
    position=PositionConfig(kind="rotary", max_length=2048, rotary_fraction=0.25),
    attention=AttentionConfig(num_heads=64),
    feedforward=FeedForwardConfig(ff_dim=24576, activation="gelu"),
    norm=NormConfig(eps=1e-5),
    head=HeadConfig(tied=False),
    init=InitConfig(scale_residual=False),
)


def size(layers: int, width: int, heads: int, vocab: int, fraction: float = 0.25) -> ModelConfig:
    """Resize the base model; the feed-forward has four times the width, as in all published sizes.

    Args:
        layers: Number of layers.
        width: Model width.
        heads: Number of attention heads.
        vocab: Vocabulary size.
        fraction: Fraction of each head that is rotated.

    Returns:
        The resized model config.
    """
    return resized(
        BASE,
        num_layers=layers,
        width=width,
        vocab_size=vocab,
        attention__num_heads=heads,
        feedforward__ff_dim=4 * width,
        position__rotary_fraction=fraction,
    )


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; queries, keys and values are packed head by head."""
    path = "model/decoder/blocks"
    name = "gpt_neox.layers.{layer}"
    bias = config.attention.qkv_bias
    mappings = [
        WeightMapping("model/embedding/table", "gpt_neox.embed_in.weight", "v d -> v d"),
        *norm("model/decoder/final_norm", "gpt_neox.final_layer_norm"),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm"),
        *norm(f"{path}/feedforward_norm", f"{name}.post_attention_layernorm"),
        *linear(f"{path}/attention/out", f"{name}.attention.dense", "d (n h) -> n h d", "d" if bias else ""),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.dense_h_to_4h", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.dense_4h_to_h", bias="f"),
    ]
    packed = f"{name}.attention.query_key_value"
    for index, projection in enumerate(("query", "key", "value")):
        mappings += linear(
            f"{path}/attention/{projection}", packed, "(n 3 h) d -> d n h", "(n 3 h)" if bias else "", index
        )
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "embed_out.weight", "v d -> v d"))
    return mappings


def _read_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read rotary parameters, in the current keys or in the older ones."""
    parameters = dict(values.get("rope_scaling") or {}) | dict(values.get("rope_parameters") or {})
    theta = parameters.get("rope_theta", values.get("rotary_emb_base", values.get("rope_theta", 10_000.0)))
    fraction = parameters.get("partial_rotary_factor", values.get("rotary_pct", 0.25))
    return {
        "position.theta": float(theta),
        "position.rotary_fraction": float(fraction),
        "position.scaling": scaling_of(parameters, True, values),
    }


def _write_rope(config: ModelConfig) -> dict[str, Any]:
    position = config.position
    parameters = parameters_of(position.theta, position.scaling)
    parameters["partial_rotary_factor"] = position.rotary_fraction
    return {
        "rope_parameters": parameters,
        "rotary_pct": position.rotary_fraction,
        "rotary_emb_base": position.theta,
    }


FAMILY = Family(
    name="gpt-neox",
    citation="Black et al. 2022, GPT-NeoX-20B, arXiv:2204.06745",
    base=BASE,
    sizes={"20b": BASE},
    rows=rows,
    model_type="gpt_neox",
    architectures={"GPTNeoXForCausalLM": (), "GPTNeoXModel": ()},
    task_classes=decoder_task_classes("GPTNeoX", "classifier"),
    fields=(
        SameField("vocab_size", "vocab_size", 50432),
        SameField("hidden_size", "width", 6144),
        SameField("num_hidden_layers", "num_layers", 44),
        SameField("num_attention_heads", "attention.num_heads", 64),
        SameField("intermediate_size", "feedforward.ff_dim", 24576),
        SameField("hidden_act", "feedforward.activation", "gelu", ACTIVATIONS),
        SameField("layer_norm_eps", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("max_position_embeddings", "position.max_length", 2048),
        SameField("hidden_dropout", "dropout", 0.0),
        SameField("attention_dropout", "attention.dropout", 0.0),
        SameField("tie_word_embeddings", "head.tied", False),
        SameField("use_parallel_residual", "block_layout", True, {True: "parallel", False: "pre"}),
        MappedField(
            ("attention_bias",),
            lambda values: dict.fromkeys(
                ("attention.qkv_bias", "attention.out_bias"), values.get("attention_bias", True)
            ),
            lambda config: {"attention_bias": config.attention.qkv_bias},
        ),
        MappedField(
            ("rope_parameters", "rope_scaling", "rope_theta", "rotary_pct", "rotary_emb_base"),
            _read_rope,
            _write_rope,
        ),
        FixedField("is_decoder", (False, True)),
    ),
    prefix="gpt_neox.",
    copies={
        "embed_out.weight": "gpt_neox.embed_in.weight",
        "lm_head.weight": "gpt_neox.embed_in.weight",
    },
    ignored=(r"attention\.(masked_)?bias$", r"rotary_emb\.inv_freq$"),
)


def _family(name: str, citation: str, sizes: dict[str, ModelConfig]) -> Family:
    """Return a family of this architecture with other sizes."""
    return Family(
        name=name,
        citation=citation,
        base=next(iter(sizes.values())),
        sizes=sizes,
        rows=rows,
        model_type="gpt_neox",
        architectures=FAMILY.architectures,
        task_classes=FAMILY.task_classes,
        fields=FAMILY.fields,
        prefix=FAMILY.prefix,
        copies=FAMILY.copies,
        ignored=FAMILY.ignored,
    )


# Trained with a fused tanh GELU, but released with configs that name the exact one, as here.
PYTHIA = _family(
    "pythia",
    "Biderman et al. 2023, Pythia: A Suite for Analyzing Large Language Models, ICML",
    {
        "70m": size(6, 512, 8, 50304),
        "160m": size(12, 768, 12, 50304),
        "410m": size(24, 1024, 16, 50304),
        "1b": size(16, 2048, 8, 50304),
        "1.4b": size(24, 2048, 16, 50304),
        "2.8b": size(32, 2560, 32, 50304),
        "6.9b": size(32, 4096, 32, 50432),
        "12b": size(36, 5120, 40, 50688),
    },
)

# 64 dims of a head are rotated: half of the head, or a quarter where heads have 256 dims.
POLYGLOT = _family(
    "polyglot-ko",
    "Ko et al. 2023, A Technical Report for Polyglot-Ko, arXiv:2306.02254",
    {
        "1.3b": size(24, 2048, 16, 30080, 0.5),
        "3.8b": size(32, 3072, 24, 30080, 0.5),
        "5.8b": size(28, 4096, 16, 30080, 0.25),
        "12.8b": size(40, 5120, 40, 30080, 0.5),
    },
)
