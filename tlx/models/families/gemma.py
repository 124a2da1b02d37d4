"""Gemma 1 and 2: LLaMA's block with RMSNorms around 1; Gemma 2 with norms on both sides and capped logits."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, FixedField, MappedField, SameField, TaskClass, resized
from tlx.models.families.gemma3 import CAP
from tlx.models.families.gemma3 import rows as gemma3_rows
from tlx.models.families.llama import ATTENTION_BIAS, COPIES, IGNORED, fields_of, rows, size
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.rope import kinds_of, rope, windows_of

BASE = resized(
    LLAMA,
    vocab_size=256000,
    embedding__scale=True,
    position__max_length=8192,
    attention__head_dim=256,
    feedforward__activation="gelu_tanh",
    norm__unit_offset=True,
    head__tied=True,
)
GEMMA2_BASE = resized(
    BASE,
    block_layout="sandwich",
    attention__query_pre_attn_scalar=256,
    attention__softcap=50.0,
    attention__window_pattern=(4096, 0),
    head__softcap=30.0,
)
# The exact GELU that the first configs name is the approximation too, for their class.
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh", "gelu_new": "gelu_tanh"}
BOTH_SIDES = FixedField("use_bidirectional_attention", (None, False))


def _read_windows(values: Mapping[str, Any]) -> dict[str, Any]:
    kinds = values.get("layer_types") or [
        "full_attention" if i % 2 else "sliding_attention" for i in range(values.get("num_hidden_layers", 26))
    ]
    return windows_of(kinds, values.get("sliding_window", 4096) or 0)


def _write_windows(config: ModelConfig) -> dict[str, Any]:
    window = max((config.attention.window, *config.attention.window_pattern))
    return {"layer_types": kinds_of(config), "sliding_window": window or None}


ATTENTION_CAP = MappedField(
    ("attn_logit_softcapping",),
    lambda values: {"attention.softcap": values.get("attn_logit_softcapping", 50.0) or 0.0},
    lambda config: {"attn_logit_softcapping": config.attention.softcap or None},
)
OUTPUT_CAP = MappedField(
    CAP.keys,
    lambda values: {"head.softcap": values.get("final_logit_softcapping", 30.0) or 0.0},
    CAP.write,
)

FAMILY = Family(
    name="gemma",
    citation="Gemma Team 2024, Gemma: Open Models Based on Gemini Research and Technology, arXiv:2403.08295",
    base=BASE,
    sizes={
        "2b": size(BASE, 18, 2048, 8, 16384, attention__num_kv_heads=1),
        "7b": size(BASE, 28, 3072, 16, 24576, attention__num_kv_heads=16),
    },
    rows=rows,
    model_type="gemma",
    architectures={"GemmaForCausalLM": (), "GemmaModel": ()},
    task_classes={"GemmaForSequenceClassification": TaskClass("sequence", "score", bias=False)},
    fields=(
        *fields_of(size(BASE, 28, 3072, 16, 24576, attention__num_kv_heads=16), activations=ACTIVATIONS),
        ATTENTION_BIAS,
        rope(10_000.0),
        # The class reads hidden_act alone.
        FixedField("hidden_activation", (None, "gelu_pytorch_tanh")),
        BOTH_SIDES,
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)

GEMMA2 = Family(
    name="gemma2",
    citation="Gemma Team 2024, Gemma 2: Improving Open Language Models at a Practical Size, arXiv:2408.00118",
    base=GEMMA2_BASE,
    sizes={
        "2b": size(GEMMA2_BASE, 26, 2304, 8, 9216, attention__num_kv_heads=4),
        "9b": size(GEMMA2_BASE, 42, 3584, 16, 14336, attention__num_kv_heads=8),
        "27b": size(
            GEMMA2_BASE,
            46,
            4608,
            32,
            36864,
            attention__num_kv_heads=16,
            attention__head_dim=128,
            attention__query_pre_attn_scalar=144,
        ),
    },
    rows=gemma3_rows,
    model_type="gemma2",
    architectures={"Gemma2ForCausalLM": (), "Gemma2Model": ()},
    task_classes={"Gemma2ForSequenceClassification": TaskClass("sequence", "score", bias=False)},
    fields=(
        *fields_of(
            size(GEMMA2_BASE, 26, 2304, 8, 9216, attention__num_kv_heads=4), activation="hidden_activation"
        ),
        ATTENTION_BIAS,
        SameField("query_pre_attn_scalar", "attention.query_pre_attn_scalar", 256),
        MappedField(("layer_types", "sliding_window"), _read_windows, _write_windows),
        ATTENTION_CAP,
        OUTPUT_CAP,
        rope(10_000.0),
        # The class reads hidden_activation alone.
        FixedField("hidden_act", ("gelu_pytorch_tanh",)),
        BOTH_SIDES,
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
