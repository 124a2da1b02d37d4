"""Gemma 3 (text): sandwich norms, five local layers to one global, each kind with its own rotary base."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    TaskClass,
    WeightMapping,
    norm,
    resized,
)
from tlx.models.families.llama import (
    ATTENTION_BIAS,
    COPIES,
    IGNORED,
    attention,
    common,
    feedforward,
    outside,
    size,
)
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.rope import by_layer_type, kinds_of, parameters_of, scaling_of, windows_of
from tlx.nn.config import RotaryScaling


def windows(size: int) -> tuple[int, ...]:
    """Return the window pattern: five layers with a window of `size`, one without."""
    return (size,) * 5 + (0,)


# The 270m and 1b models have a shorter context, and no scaling of rotary positions.
SMALL_BASE = resized(
    LLAMA,
    vocab_size=262144,
    block_layout="sandwich",
    embedding__scale=True,
    position__max_length=32768,
    position__theta=1_000_000.0,
    position__local_theta=10_000.0,
    attention__head_dim=256,
    attention__num_kv_heads=1,
    attention__qk_norm=True,
    attention__query_pre_attn_scalar=256,
    attention__window_pattern=windows(512),
    feedforward__activation="gelu_tanh",
    norm__unit_offset=True,
    head__tied=True,
)
BASE = resized(
    SMALL_BASE,
    position__max_length=131072,
    position__scaling=RotaryScaling("linear", 8.0),
    attention__window_pattern=windows(1024),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; norm scales are stored as an offset from 1 in both formats."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    return [
        *outside(config),
        *attention(f"{path}/attention", f"{name}.self_attn", config),
        *feedforward(f"{path}/feedforward", f"{name}.mlp", config),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm", bias=False),
        *norm(f"{path}/attention_post_norm", f"{name}.post_attention_layernorm", bias=False),
        *norm(f"{path}/feedforward_norm", f"{name}.pre_feedforward_layernorm", bias=False),
        *norm(f"{path}/feedforward_post_norm", f"{name}.post_feedforward_layernorm", bias=False),
    ]


def _read_positions(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read windows and rotary parameters, in the current keys or in the older ones."""
    full, local = by_layer_type(values)
    full = dict(values.get("rope_scaling") or {}) | full
    # tlx scales the positions of global layers only: raises the error that names the kind.
    if scaling_of(local).kind != "none":
        scaling_of({"rope_type": f"{local['rope_type']} of layers with a window"})
    window = values.get("sliding_window", 4096)
    pattern = values.get("sliding_window_pattern") or values.get("_sliding_window_pattern") or 6
    kinds = values.get("layer_types") or [
        "full_attention" if (i + 1) % pattern == 0 else "sliding_attention"
        for i in range(values.get("num_hidden_layers", 26))
    ]
    local_theta = local.get("rope_theta", values.get("rope_local_base_freq", 10_000.0))
    fields = windows_of(kinds, window)
    any_window = any((fields["attention.window"], *fields["attention.window_pattern"]))
    return fields | {
        "position.theta": float(full.get("rope_theta", values.get("rope_theta", 1_000_000.0))),
        "position.scaling": scaling_of(full, values=values),
        "position.local_theta": float(local_theta) if any_window else 0.0,
    }


def _write_positions(config: ModelConfig) -> dict[str, Any]:
    position = config.position
    local = position.local_theta or position.theta
    return {
        "layer_types": kinds_of(config),
        "sliding_window": max((config.attention.window, *config.attention.window_pattern)) or 4096,
        "rope_parameters": {
            "full_attention": parameters_of(position.theta, position.scaling),
            "sliding_attention": parameters_of(local, RotaryScaling()),
        },
    }


POSITIONS = MappedField(
    (
        "layer_types",
        "sliding_window",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "rope_local_base_freq",
    ),
    _read_positions,
    _write_positions,
)
CAP = MappedField(
    ("final_logit_softcapping",),
    lambda values: {"head.softcap": values.get("final_logit_softcapping") or 0.0},
    lambda config: {"final_logit_softcapping": config.head.softcap or None},
)

FAMILY = Family(
    name="gemma3",
    citation="Gemma Team 2025, Gemma 3 Technical Report, arXiv:2503.19786",
    base=BASE,
    sizes={
        "270m": resized(size(SMALL_BASE, 18, 640, 4, 2048)),
        "1b": size(SMALL_BASE, 26, 1152, 4, 6912),
        "4b": size(BASE, 34, 2560, 8, 10240, attention__num_kv_heads=4, vocab_size=262208),
        "12b": size(BASE, 48, 3840, 16, 15360, attention__num_kv_heads=8, vocab_size=262208),
        "27b": size(
            BASE,
            62,
            5376,
            32,
            21504,
            attention__num_kv_heads=16,
            attention__head_dim=128,
            attention__query_pre_attn_scalar=168,
            vocab_size=262208,
        ),
    },
    rows=rows,
    model_type="gemma3_text",
    architectures={"Gemma3ForCausalLM": (), "Gemma3TextModel": ()},
    task_classes={"Gemma3TextForSequenceClassification": TaskClass("sequence", "score", bias=False)},
    fields=(
        *(
            field
            for field in common("hidden_activation", positions=131072)
            if getattr(field, "key", "") != "tie_word_embeddings"
        ),
        SameField("tie_word_embeddings", "head.tied", True),
        ATTENTION_BIAS,
        SameField("query_pre_attn_scalar", "attention.query_pre_attn_scalar", 256),
        POSITIONS,
        CAP,
        FixedField("attn_logit_softcapping", (None,)),  # the class does not use it
        FixedField("use_bidirectional_attention", (False, None)),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)

# The text model of the models of texts and images. It is exported as a text model.
WITH_IMAGES = dataclasses.replace(
    FAMILY,
    nested="text_config",
    ignored=(*IGNORED, r"(^|\.)vision_tower\.", r"(^|\.)multi_modal_projector\."),
    renamed={
        r"^language_model\.model\.": "model.",
        r"^language_model\.lm_head\.": "lm_head.",
        r"^model\.language_model\.": "model.",
    },
)
