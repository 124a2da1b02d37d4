"""Cohere (Command R, Aya): one LayerNorm without bias before parallel parts, neighbouring dims rotated in pairs."""

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, MappedField, SameField, WeightMapping, resized
from tlx.models.families.llama import ATTENTION_BIAS, COPIES, IGNORED, fields_of, size
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.llama import rows as llama_rows
from tlx.models.families.rope import rope
from tlx.nn.config import NormConfig

BASE = resized(
    LLAMA,
    vocab_size=256000,
    width=8192,
    num_layers=40,
    block_layout="parallel_shared",
    position__max_length=8192,
    position__theta=8_000_000.0,
    position__rotary_layout="interleaved",
    attention__num_heads=64,
    feedforward__ff_dim=22528,
    norm=NormConfig(eps=1e-5, bias=False),
    head__tied=True,
    head__multiplier=0.0625,
)
AYA = resized(BASE, attention__num_kv_heads=8)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; every head of queries and of keys has a scale of its own."""
    return llama_rows(config)


FAMILY = Family(
    name="cohere",
    citation="Aryabumi et al. 2024, Aya 23: Open Weight Releases to Further Multilingual Progress, arXiv:2405.15032",
    base=BASE,
    sizes={
        "command-r": BASE,
        "command-r-plus": resized(
            size(BASE, 64, 12288, 96, 33792, attention__num_kv_heads=8),
            position__theta=75_000_000.0,
            attention__qk_norm=True,
            attention__qk_norm_scope="each_head",
            head__multiplier=0.8333333333333334,
        ),
        "aya-8b": size(AYA, 32, 4096, 32, 14336, position__theta=10_000.0),
    },
    rows=rows,
    model_type="cohere",
    architectures={"CohereForCausalLM": (), "CohereModel": ()},
    fields=(
        *fields_of(BASE, eps="layer_norm_eps"),
        ATTENTION_BIAS,
        MappedField(
            ("use_qk_norm",),
            lambda values: {
                "attention.qk_norm": values.get("use_qk_norm", False),
                "attention.qk_norm_scope": "each_head" if values.get("use_qk_norm", False) else "head",
            },
            lambda config: {"use_qk_norm": config.attention.qk_norm},
        ),
        SameField("logit_scale", "head.multiplier", 0.0625),
        rope(500_000.0),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
