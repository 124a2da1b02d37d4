"""Phi 3 and 4: LLaMA's block with fused matrices, and LongRoPE in the models of long context."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    TaskClass,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.llama import COPIES, IGNORED, fields_of, outside, size
from tlx.models.families.mistral import WINDOW
from tlx.models.families.rope import rope

BASE = resized(
    LLAMA,
    vocab_size=32064,
    width=3072,
    feedforward__ff_dim=8192,
    position__max_length=4096,
    norm__eps=1e-5,
)


def gate_and_up(path: str, name: str) -> list[WeightMapping]:
    """Return the mappings of a gated feed-forward whose first two matrices are one tensor.

    Args:
        path: Parameter path of the feed-forward.
        name: Name of the Hugging Face module.

    Returns:
        The mappings.
    """
    rows = linear(f"{path}/out", f"{name}.down_proj")
    for part, matrix in enumerate(("gate", "in")):
        rows += linear(f"{path}/{matrix}", f"{name}.gate_up_proj", "(2 f) d -> d f", part=part)
    return rows


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    block = config.block("decoder")
    heads = (block.attention.num_heads, block.num_kv_heads, block.num_kv_heads)
    sections = tuple(count * block.head_dim for count in heads)
    mappings = [
        *outside(config),
        *linear(f"{path}/attention/out", f"{name}.self_attn.o_proj", "d (n h) -> n h d"),
        *gate_and_up(f"{path}/feedforward", f"{name}.mlp"),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm", bias=False),
        *norm(f"{path}/feedforward_norm", f"{name}.post_attention_layernorm", bias=False),
    ]
    for part, projection in enumerate(("query", "key", "value")):
        mappings.append(
            WeightMapping(
                f"{path}/attention/{projection}/kernel",
                f"{name}.self_attn.qkv_proj.weight",
                "(n h) d -> d n h",
                part,
                sections=sections,
            )
        )
    return mappings


def _rope() -> MappedField:
    """Return the field of positions, of which the class reads the length of the first training beside them."""
    key = "original_max_position_embeddings"
    field = rope(10_000.0, default_fraction=1.0)

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        return field.read({key: 4096} | dict(values))

    def write(config: ModelConfig) -> dict[str, Any]:
        scaling = config.position.scaling
        return field.write(config) | {key: scaling.original_length if scaling.kind == "longrope" else 4096}

    return MappedField((*field.keys, key), read, write)


FAMILY = Family(
    name="phi3",
    citation="Abdin et al. 2024, Phi-3 Technical Report, arXiv:2404.14219 (Phi-4: arXiv:2412.08905)",
    base=BASE,
    sizes={
        "mini": BASE,
        "medium": size(BASE, 40, 5120, 40, 17920, attention__num_kv_heads=10),
        "phi-4": size(
            BASE,
            40,
            5120,
            40,
            17920,
            attention__num_kv_heads=10,
            vocab_size=100352,
            position__theta=250_000.0,
            position__max_length=16384,
        ),
        "phi-4-mini": size(
            BASE,
            32,
            3072,
            24,
            8192,
            attention__num_kv_heads=8,
            vocab_size=200064,
            position__rotary_fraction=0.75,
            head__tied=True,
        ),
    },
    rows=rows,
    model_type="phi3",
    architectures={"Phi3ForCausalLM": (), "Phi3Model": ()},
    task_classes={
        "Phi3ForSequenceClassification": TaskClass("sequence", "score", bias=False),
        "Phi3ForTokenClassification": TaskClass("token", "score"),
    },
    fields=(
        *fields_of(BASE, head_dim=False),
        # Its class does not drop embeddings out.
        FixedField("resid_pdrop", (0.0,)),
        FixedField("embd_pdrop", (0.0,)),
        FixedField("attention_bias", (False,)),
        MappedField(
            WINDOW.keys,
            lambda values: {"attention.window": values.get("sliding_window") or 0},
            WINDOW.write,
        ),
        _rope(),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
