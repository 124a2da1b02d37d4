"""StableLM: LLaMA's block with LayerNorms and a quarter of each head rotated; 12B with parallel parts."""

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    TaskClass,
    WeightMapping,
    resized,
)
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.llama import COPIES, IGNORED, fields_of, size
from tlx.models.families.llama import rows as llama_rows
from tlx.models.families.rope import rope
from tlx.nn.config import NormConfig

BASE = resized(
    LLAMA,
    vocab_size=50304,
    width=2560,
    feedforward__ff_dim=6912,
    position__max_length=4096,
    position__rotary_fraction=0.25,
    norm=NormConfig(eps=1e-5),
)
# StableLM 2.
SECOND = resized(BASE, vocab_size=100352)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; each head of queries and of keys has the tensor of its own norm."""
    mappings = llama_rows(resized(config, attention__qk_norm=False))
    if config.attention.qk_norm:
        path = "model/decoder/blocks/attention"
        name = "model.layers.{layer}.self_attn"
        for side, letter in (("query", "q"), ("key", "k")):
            # Numbered like experts: along the second dim.
            tensor = f"{name}.{letter}_layernorm.norms.{{expert}}.weight"
            mappings.append(WeightMapping(f"{path}/{side}_norm/scale", tensor))
    return mappings


FAMILY = Family(
    name="stablelm",
    citation="Bellagente et al. 2024, Stable LM 2 1.6B Technical Report, arXiv:2402.17834",
    base=BASE,
    sizes={
        "3b": size(BASE, 32, 2560, 32, 6912),
        "2-1.6b": size(resized(SECOND, attention__qkv_bias=True), 24, 2048, 32, 5632),
        "2-12b": size(
            resized(
                SECOND,
                block_layout="parallel_shared",
                attention__qk_norm=True,
                attention__qk_norm_scope="each_head",
            ),
            40,
            5120,
            32,
            13824,
            attention__num_kv_heads=8,
        ),
    },
    rows=rows,
    model_type="stablelm",
    architectures={"StableLmForCausalLM": (), "StableLmModel": ()},
    task_classes={
        "StableLmForSequenceClassification": TaskClass("sequence", "score", bias=False),
        "StableLmForTokenClassification": TaskClass("token", "score"),
    },
    fields=(
        *fields_of(resized(BASE, attention__num_kv_heads=32), eps="layer_norm_eps", head_dim=False),
        # Its class drops nothing out but what the feed-forward network adds.
        FixedField("hidden_dropout", (0.0,)),
        SameField("use_qkv_bias", "attention.qkv_bias", False),
        MappedField(
            ("qk_layernorm",),
            lambda values: {
                "attention.qk_norm": values.get("qk_layernorm", False),
                "attention.qk_norm_scope": "each_head" if values.get("qk_layernorm", False) else "head",
            },
            lambda config: {"qk_layernorm": config.attention.qk_norm},
        ),
        SameField("use_parallel_residual", "block_layout", False, {True: "parallel_shared", False: "pre"}),
        rope(10_000.0, default_fraction=0.25),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
