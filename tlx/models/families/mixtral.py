"""Mixtral: Mistral's block with eight experts in each layer, two of which process each token."""

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    WeightMapping,
    decoder_task_classes,
    norm,
    resized,
)
from tlx.models.families.llama import COPIES, IGNORED, attention, common, outside, size
from tlx.models.families.mistral import BASE as MISTRAL
from tlx.models.families.rope import rope

BASE = resized(
    MISTRAL,
    position__theta=1_000_000.0,
    attention__window=0,
    feedforward__num_experts=8,
    feedforward__experts_per_token=2,
    feedforward__router_aux_weight=0.02,
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    experts = f"{name}.block_sparse_moe"
    return [
        *outside(config),
        *attention(f"{path}/attention", f"{name}.self_attn", config),
        WeightMapping(f"{path}/feedforward/router/kernel", f"{experts}.gate.weight", "e d -> d e"),
        WeightMapping(f"{path}/feedforward/gate", f"{experts}.experts.{{expert}}.w1.weight", "f d -> d f"),
        WeightMapping(f"{path}/feedforward/out", f"{experts}.experts.{{expert}}.w2.weight", "d f -> f d"),
        WeightMapping(f"{path}/feedforward/in", f"{experts}.experts.{{expert}}.w3.weight", "f d -> d f"),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm", bias=False),
        *norm(f"{path}/feedforward_norm", f"{name}.post_attention_layernorm", bias=False),
    ]


FAMILY = Family(
    name="mixtral",
    citation="Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088",
    base=BASE,
    sizes={
        "8x7b": BASE,
        "8x22b": size(
            resized(BASE, vocab_size=32768, position__max_length=65536),
            56,
            6144,
            48,
            16384,
            attention__num_kv_heads=8,
        ),
    },
    rows=rows,
    model_type="mixtral",
    architectures={"MixtralForCausalLM": (), "MixtralModel": ()},
    task_classes=decoder_task_classes("Mixtral"),
    fields=(
        *common(eps=1e-5, positions=131072),
        MappedField(
            ("sliding_window",),
            lambda values: {"attention.window": values.get("sliding_window") or 0},
            lambda config: {"sliding_window": config.attention.window or None},
        ),
        SameField("num_local_experts", "feedforward.num_experts", 8),
        SameField("num_experts_per_tok", "feedforward.experts_per_token", 2),
        SameField("router_aux_loss_coef", "feedforward.router_aux_weight", 0.001),
        FixedField("router_jitter_noise", (0.0, 0)),
        FixedField("output_router_logits", (False, True)),
        rope(1_000_000.0),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
