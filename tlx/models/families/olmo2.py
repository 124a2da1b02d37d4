"""OLMo 2 and 3: norms behind attention and feed-forward alone, and of whole queries and keys."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, MappedField, TaskClass, WeightMapping, norm, resized
from tlx.models.families.llama import (
    ATTENTION_BIAS,
    COPIES,
    IGNORED,
    attention,
    feedforward,
    fields_of,
    outside,
    size,
)
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.rope import by_layer_type, kinds_of, parameters_of, rope, scaling_of, windows_of
from tlx.nn.config import RotaryScaling

# Of the class, where config.json lacks a key.
DEFAULTS = resized(
    LLAMA,
    vocab_size=50304,
    block_layout="output",
    attention__qk_norm=True,
    attention__qk_norm_scope="all_heads",
    norm__eps=1e-5,
)
BASE = resized(
    DEFAULTS, vocab_size=100352, position__max_length=4096, position__theta=500_000.0, norm__eps=1e-6
)
OLMO3_BASE = resized(
    BASE,
    vocab_size=100278,
    position__max_length=65536,
    position__local_theta=500_000.0,
    position__scaling=RotaryScaling("yarn", 8.0, original_length=8192),
    attention__window_pattern=(4096, 4096, 4096, 0),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    return [
        *outside(config),
        *attention(f"{path}/attention", f"{name}.self_attn", config),
        *feedforward(f"{path}/feedforward", f"{name}.mlp", config),
        *norm(f"{path}/attention_norm", f"{name}.post_attention_layernorm", bias=False),
        *norm(f"{path}/feedforward_norm", f"{name}.post_feedforward_layernorm", bias=False),
    ]


def _read_positions(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read windows and rotary parameters: of each kind of layer, or of full layers in the older keys."""
    kinds = values.get("layer_types") or [
        "sliding_attention" if (i + 1) % 4 else "full_attention"
        for i in range(values.get("num_hidden_layers", 32))
    ]
    full, local = by_layer_type(values)
    full = dict(values.get("rope_scaling") or {}) | full
    # tlx scales the positions of full layers only: raises the error that names the kind.
    if scaling_of(local).kind != "none":
        scaling_of({"rope_type": f"{local['rope_type']} of layers with a window"})
    fields = windows_of(kinds, values.get("sliding_window", 4096) or 0)
    any_window = any((fields["attention.window"], *fields["attention.window_pattern"]))
    theta = values.get("rope_theta", 500_000.0)
    return fields | {
        "position.theta": float(full.get("rope_theta", theta)),
        "position.scaling": scaling_of(full, values=values),
        "position.local_theta": float(local.get("rope_theta", theta)) if any_window else 0.0,
    }


def _write_positions(config: ModelConfig) -> dict[str, Any]:
    position = config.position
    local_theta = position.local_theta or position.theta
    return {
        "layer_types": kinds_of(config),
        "sliding_window": max((config.attention.window, *config.attention.window_pattern)) or 4096,
        "rope_parameters": {
            "full_attention": parameters_of(position.theta, position.scaling),
            "sliding_attention": parameters_of(local_theta, RotaryScaling()),
        },
    }


FAMILY = Family(
    name="olmo2",
    citation="OLMo Team 2025, 2 OLMo 2 Furious, arXiv:2501.00656",
    base=BASE,
    sizes={
        "1b": size(BASE, 16, 2048, 16, 8192),
        "7b": BASE,
        "13b": size(BASE, 40, 5120, 40, 13824),
        "32b": size(BASE, 64, 5120, 40, 27648, attention__num_kv_heads=8),
    },
    rows=rows,
    model_type="olmo2",
    architectures={"Olmo2ForCausalLM": (), "Olmo2Model": ()},
    task_classes={"Olmo2ForSequenceClassification": TaskClass("sequence", "score", bias=False)},
    fields=(*fields_of(DEFAULTS), ATTENTION_BIAS, rope(10_000.0)),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)

OLMO3 = Family(
    name="olmo3",
    citation="OLMo Team 2025, Olmo 3, arXiv:2512.13961",
    base=OLMO3_BASE,
    sizes={"7b": OLMO3_BASE, "32b": size(OLMO3_BASE, 64, 5120, 40, 27648, attention__num_kv_heads=8)},
    rows=rows,
    model_type="olmo3",
    architectures={"Olmo3ForCausalLM": (), "Olmo3Model": ()},
    task_classes={"Olmo3ForSequenceClassification": TaskClass("sequence", "score", bias=False)},
    fields=(
        *fields_of(DEFAULTS),
        ATTENTION_BIAS,
        MappedField(
            ("layer_types", "sliding_window", "rope_parameters", "rope_scaling", "rope_theta"),
            _read_positions,
            _write_positions,
        ),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
