"""EuroBERT: LLaMA's block without a causal mask, as a masked model."""

import dataclasses

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    TaskClass,
    WeightMapping,
    resized,
)
from tlx.models.families.llama import ATTENTION_BIAS, COPIES, IGNORED, fields_of, size
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.llama import rows as llama_rows
from tlx.models.families.rope import rope

BASE = resized(
    LLAMA,
    kind="encoder",
    vocab_size=128256,
    width=768,
    num_layers=12,
    attention__num_heads=12,
    feedforward__ff_dim=3072,
    position__max_length=8192,
    position__theta=250_000.0,
    norm__eps=1e-5,
    head__transform=False,
    head__masked_bias=False,
)
# Values of the class where config.json lacks the key.
DEFAULTS = resized(BASE, position__theta=10_000.0)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model: LLaMA's, of an encoder."""
    return [
        dataclasses.replace(row, path=row.path.replace("/decoder/", "/encoder/"))
        for row in llama_rows(config)
    ]


FAMILY = Family(
    name="eurobert",
    citation="Boizard et al. 2025, EuroBERT: Scaling Multilingual Encoders for European Languages, "
    "arXiv:2503.05500",
    base=BASE,
    sizes={
        "210m": BASE,
        "610m": size(BASE, 26, 1152, 18, 4096, attention__num_kv_heads=6),
        "2.1b": size(BASE, 32, 2304, 18, 6144, attention__num_kv_heads=6),
    },
    rows=rows,
    model_type="eurobert",
    architectures={"EuroBertForMaskedLM": (), "EuroBertModel": ()},
    task_classes={"EuroBertForTokenClassification": TaskClass("token", "classifier")},
    fields=(
        *fields_of(DEFAULTS),
        ATTENTION_BIAS,
        FixedField("mlp_bias", (False,)),
        rope(10_000.0),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
