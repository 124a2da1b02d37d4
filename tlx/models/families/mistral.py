"""Mistral: LLaMA's block with grouped-query attention and a sliding window."""

from tlx.models.families.family import Family, MappedField, decoder_task_classes, resized
from tlx.models.families.llama import COPIES, IGNORED, LLAMA2_BASE, common, rows, size
from tlx.models.families.rope import rope

BASE = size(
    resized(LLAMA2_BASE, position__max_length=32768, attention__window=4096),
    32,
    4096,
    32,
    14336,
    attention__num_kv_heads=8,
)

WINDOW = MappedField(
    ("sliding_window",),
    lambda values: {"attention.window": values.get("sliding_window", 4096) or 0},
    lambda config: {"sliding_window": config.attention.window or None},
)

FAMILY = Family(
    name="mistral",
    citation="Jiang et al. 2023, Mistral 7B, arXiv:2310.06825",
    base=BASE,
    sizes={"7b": BASE},
    rows=rows,
    model_type="mistral",
    architectures={"MistralForCausalLM": (), "MistralModel": ()},
    task_classes=decoder_task_classes("Mistral"),
    fields=(*common(positions=131072), WINDOW, rope(10_000.0)),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
