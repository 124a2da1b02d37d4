"""SmolLM 3: LLaMA's block without rotation on every fourth layer."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, MappedField, SameField, decoder_task_classes, resized
from tlx.models.families.llama import ATTENTION_BIAS, COPIES, IGNORED, fields_of, rows
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.rope import kinds_of, rope, shortest_pattern, windows_of

BASE = resized(
    LLAMA,
    vocab_size=128256,
    width=2048,
    num_layers=36,
    position__max_length=65536,
    position__theta=5_000_000.0,
    position__rotary_pattern=(True, True, True, False),
    attention__num_heads=16,
    attention__num_kv_heads=4,
    head__tied=True,
)
# Of the class, where config.json lacks a key.
DEFAULTS = resized(BASE, position__max_length=32768)


def _read_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read which layers rotate, and which have a window."""
    layers = values.get("num_hidden_layers", 36)
    interval = values.get("no_rope_layer_interval", 4)
    rotated = values.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(layers)]
    pattern = shortest_pattern([bool(value) for value in rotated])
    window = values.get("sliding_window") if values.get("use_sliding_window", False) else None
    kinds = values.get("layer_types") or [
        "sliding_attention" if window and not is_rotated else "full_attention" for is_rotated in rotated
    ]
    return {
        **windows_of(kinds, window or 0),
        "position.rotary_pattern": () if pattern == (True,) else pattern,
    }


def _write_layers(config: ModelConfig) -> dict[str, Any]:
    pattern = config.position.rotary_pattern or (True,)
    window = max((config.attention.window, *config.attention.window_pattern))
    return {
        "layer_types": kinds_of(config),
        "no_rope_layers": [int(pattern[i % len(pattern)]) for i in range(config.num_layers)],
        "sliding_window": window or None,
        "use_sliding_window": window > 0,
    }


FAMILY = Family(
    name="smollm3",
    citation="Bakouch et al. 2025, SmolLM3: smol, multilingual, long-context reasoner",
    base=BASE,
    sizes={"3b": BASE},
    rows=rows,
    model_type="smollm3",
    architectures={"SmolLM3ForCausalLM": (), "SmolLM3Model": ()},
    task_classes=decoder_task_classes("SmolLM3", span_body="transformer."),
    fields=(
        *fields_of(DEFAULTS),
        ATTENTION_BIAS,
        SameField("mlp_bias", "feedforward.bias", False),
        MappedField(
            (
                "layer_types",
                "no_rope_layers",
                "no_rope_layer_interval",
                "sliding_window",
                "use_sliding_window",
            ),
            _read_layers,
            _write_layers,
        ),
        rope(2_000_000.0),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
