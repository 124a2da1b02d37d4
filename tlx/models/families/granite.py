"""Granite 3 and 4 (dense): LLaMA's block with a factor at the embedding, the stream, attention and the logits."""

from tlx.models.families.family import Family, MappedField, SameField, resized
from tlx.models.families.llama import ATTENTION_BIAS, COPIES, IGNORED, fields_of, rows, size
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.rope import rope

BASE = resized(
    LLAMA,
    vocab_size=49159,
    residual_multiplier=0.22,
    embedding__multiplier=12.0,
    position__max_length=131072,
    position__theta=10_000_000.0,
    attention__num_kv_heads=8,
    attention__multiplier=0.015625,
    norm__eps=1e-5,
    head__tied=True,
    head__multiplier=0.125,
)

FAMILY = Family(
    name="granite",
    citation="Granite Team, IBM 2024, Granite 3.0 Language Models",
    base=BASE,
    sizes={
        "3.3-2b": size(BASE, 40, 2048, 32, 8192),
        "3.3-8b": size(
            resized(BASE, attention__multiplier=0.0078125, head__multiplier=0.0625), 40, 4096, 32, 12800
        ),
    },
    rows=rows,
    model_type="granite",
    architectures={"GraniteForCausalLM": (), "GraniteModel": ()},
    fields=(
        *fields_of(LLAMA),
        ATTENTION_BIAS,
        SameField("mlp_bias", "feedforward.bias", False),
        MappedField(
            ("embedding_multiplier", "residual_multiplier", "attention_multiplier"),
            lambda values: {
                "embedding.multiplier": float(values.get("embedding_multiplier", 1.0)),
                "residual_multiplier": float(values.get("residual_multiplier", 1.0)),
                "attention.multiplier": float(values.get("attention_multiplier", 1.0)),
            },
            lambda config: {
                "embedding_multiplier": config.embedding.multiplier,
                "residual_multiplier": config.residual_multiplier,
                "attention_multiplier": config.block("decoder").softmax_scale,
            },
        ),
        MappedField(
            ("logits_scaling",),
            lambda values: {"head.multiplier": 1.0 / values.get("logits_scaling", 1.0)},
            # Rounded: the inverse of an inverse is off by one in the last place.
            lambda config: {"logits_scaling": float(f"{1.0 / config.head.multiplier:.15g}")},
        ),
        rope(10_000.0),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
