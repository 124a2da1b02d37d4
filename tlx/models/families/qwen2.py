"""Qwen 2 and 2.5 (dense): LLaMA's block with biases of queries, keys and values."""

from tlx.models.families.family import Family, decoder_task_classes, resized
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.llama import COPIES, IGNORED, fields_of, rows, size
from tlx.models.families.qwen3 import WINDOWS
from tlx.models.families.rope import rope

BASE = resized(
    LLAMA,
    vocab_size=151936,
    position__theta=1_000_000.0,
    position__max_length=32768,
    attention__qkv_bias=True,
)
TIED = resized(BASE, head__tied=True)
# From 7B on the table has more rows.
LARGE = resized(BASE, vocab_size=152064)
# Of the class, where config.json lacks a key.
DEFAULTS = resized(BASE, feedforward__ff_dim=22016, attention__num_kv_heads=32)

FAMILY = Family(
    name="qwen2",
    citation="Yang et al. 2024, Qwen2 Technical Report, arXiv:2407.10671 (2.5: arXiv:2412.15115)",
    base=BASE,
    sizes={
        "0.5b": size(TIED, 24, 896, 14, 4864, attention__num_kv_heads=2),
        "1.5b": size(TIED, 28, 1536, 12, 8960, attention__num_kv_heads=2),
        "3b": size(TIED, 36, 2048, 16, 11008, attention__num_kv_heads=2),
        "7b": size(LARGE, 28, 3584, 28, 18944, attention__num_kv_heads=4),
        "14b": size(LARGE, 48, 5120, 40, 13824, attention__num_kv_heads=8),
        "32b": size(LARGE, 64, 5120, 40, 27648, attention__num_kv_heads=8),
        "72b": size(LARGE, 80, 8192, 64, 29568, attention__num_kv_heads=8),
    },
    rows=rows,
    model_type="qwen2",
    architectures={"Qwen2ForCausalLM": (), "Qwen2Model": ()},
    task_classes=decoder_task_classes("Qwen2", span_body="transformer."),
    fields=(*fields_of(DEFAULTS), WINDOWS, rope(10_000.0)),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
