"""Qwen 3 (dense): LLaMA's block with norms of queries and keys."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, MappedField, decoder_task_classes, resized
from tlx.models.families.llama import ATTENTION_BIAS, COPIES, IGNORED, common, rows, size
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.rope import kinds_of, rope, windows_of

BASE = resized(
    LLAMA,
    vocab_size=151936,
    position__theta=1_000_000.0,
    position__max_length=40960,
    attention__qk_norm=True,
    attention__head_dim=128,
    attention__num_kv_heads=8,
)
TIED = resized(BASE, head__tied=True)


def _read_windows(values: Mapping[str, Any]) -> dict[str, Any]:
    window = None
    if values.get("use_sliding_window", False):
        window = values.get("sliding_window", 4096)
    first_local = values.get("max_window_layers", 28)
    layers = values.get("num_hidden_layers", 32)
    kinds = values.get("layer_types") or [
        "sliding_attention" if window and i >= first_local else "full_attention" for i in range(layers)
    ]
    return windows_of(kinds, window or 0)


def _write_windows(config: ModelConfig) -> dict[str, Any]:
    window = max((config.attention.window, *config.attention.window_pattern))
    return {
        "layer_types": kinds_of(config),
        "sliding_window": window or None,
        "use_sliding_window": window > 0,
        "max_window_layers": config.num_layers,
    }


WINDOWS = MappedField(
    ("layer_types", "sliding_window", "use_sliding_window", "max_window_layers"),
    _read_windows,
    _write_windows,
)

FAMILY = Family(
    name="qwen3",
    citation="Yang et al. 2025, Qwen3 Technical Report, arXiv:2505.09388",
    base=BASE,
    sizes={
        "0.6b": size(TIED, 28, 1024, 16, 3072),
        "1.7b": size(TIED, 28, 2048, 16, 6144),
        "4b": size(TIED, 36, 2560, 32, 9728),
        "8b": size(BASE, 36, 4096, 32, 12288),
        "14b": size(BASE, 40, 5120, 40, 17408),
        "32b": size(BASE, 64, 5120, 64, 25600),
    },
    rows=rows,
    model_type="qwen3",
    architectures={"Qwen3ForCausalLM": (), "Qwen3Model": ()},
    task_classes=decoder_task_classes("Qwen3", span_body="transformer."),
    fields=(
        *common(positions=32768),
        ATTENTION_BIAS,
        WINDOWS,
        rope(10_000.0),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
