"""GLM-4 (0414): norms on both sides of each part, half of each head rotated in neighbouring pairs."""

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, MappedField, WeightMapping, decoder_task_classes, norm, resized
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.llama import COPIES, IGNORED, attention, fields_of, outside, size
from tlx.models.families.phi3 import gate_and_up
from tlx.models.families.rope import rope

# Of the class, where config.json lacks a key.
DEFAULTS = resized(
    LLAMA,
    vocab_size=151552,
    num_layers=40,
    block_layout="sandwich",
    position__max_length=131072,
    position__rotary_fraction=0.5,
    position__rotary_layout="interleaved",
    attention__num_kv_heads=2,
    attention__head_dim=128,
    attention__qkv_bias=True,
    feedforward__ff_dim=13696,
    norm__eps=1.5625e-7,
)
BASE = resized(DEFAULTS, position__max_length=32768, norm__eps=1e-5)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    return [
        *outside(config),
        *attention(f"{path}/attention", f"{name}.self_attn", config),
        *gate_and_up(f"{path}/feedforward", f"{name}.mlp"),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm", bias=False),
        *norm(f"{path}/attention_post_norm", f"{name}.post_self_attn_layernorm", bias=False),
        *norm(f"{path}/feedforward_norm", f"{name}.post_attention_layernorm", bias=False),
        *norm(f"{path}/feedforward_post_norm", f"{name}.post_mlp_layernorm", bias=False),
    ]


FAMILY = Family(
    name="glm4",
    citation="Team GLM 2024, ChatGLM: A Family of Large Language Models from GLM-130B to GLM-4, arXiv:2406.12793",
    base=BASE,
    sizes={
        "9b": BASE,
        "32b": size(resized(BASE, attention__qkv_bias=False), 61, 6144, 48, 23040, attention__num_kv_heads=8),
    },
    rows=rows,
    model_type="glm4",
    architectures={"Glm4ForCausalLM": (), "Glm4Model": ()},
    task_classes={
        name: head
        for name, head in decoder_task_classes("Glm4").items()
        if not name.endswith("QuestionAnswering")
    },
    fields=(
        *fields_of(DEFAULTS),
        MappedField(
            ("attention_bias",),
            lambda values: {"attention.qkv_bias": values.get("attention_bias", True)},
            lambda config: {"attention_bias": config.attention.qkv_bias},
        ),
        rope(10_000.0, default_fraction=0.5),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
