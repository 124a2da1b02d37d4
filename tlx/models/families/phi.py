"""Phi 1, 1.5 and 2: one LayerNorm before parallel attention and feed-forward, biases everywhere."""

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    Family,
    MappedField,
    TaskClass,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.models.families.llama import IGNORED, fields_of, size
from tlx.models.families.rope import rope
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=51200,
    width=2048,
    num_layers=24,
    block_layout="parallel_shared",
    position=PositionConfig(kind="rotary", max_length=2048, rotary_fraction=0.5),
    attention=AttentionConfig(num_heads=32),
    feedforward=FeedForwardConfig(ff_dim=8192, activation="gelu_tanh"),
    norm=NormConfig(eps=1e-5),
    head=HeadConfig(tied=False, bias=True),
    init=InitConfig(scale_residual=False),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    mappings = [
        WeightMapping("model/embedding/table", "model.embed_tokens.weight", "v d -> v d"),
        WeightMapping("model/output/bias", "lm_head.bias", "v -> v"),
        *norm("model/decoder/final_norm", "model.final_layernorm"),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm"),
        *linear(f"{path}/attention/out", f"{name}.self_attn.dense", "d (n h) -> n h d", "d"),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.fc1", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.fc2", bias="f"),
    ]
    for projection, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        mappings += linear(
            f"{path}/attention/{projection}", f"{name}.self_attn.{letter}_proj", "(n h) d -> d n h", "(n h)"
        )
    if config.attention.qk_norm:
        mappings += norm(f"{path}/attention/query_norm", f"{name}.self_attn.q_layernorm")
        mappings += norm(f"{path}/attention/key_norm", f"{name}.self_attn.k_layernorm")
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


FAMILY = Family(
    name="phi",
    citation="Gunasekar et al. 2023, Textbooks Are All You Need, arXiv:2306.11644; Li et al. 2023, "
    "Textbooks Are All You Need II, arXiv:2309.05463",
    base=BASE,
    sizes={
        "1": BASE,
        "1.5": BASE,
        "2": size(resized(BASE, position__rotary_fraction=0.4), 32, 2560, 32, 10240),
    },
    rows=rows,
    model_type="phi",
    architectures={"PhiForCausalLM": (), "PhiModel": ()},
    task_classes={
        "PhiForSequenceClassification": TaskClass("sequence", "score", bias=False),
        "PhiForTokenClassification": TaskClass("token", "classifier"),
    },
    fields=(
        *fields_of(BASE, eps="layer_norm_eps", head_dim=False),
        MappedField(
            ("resid_pdrop", "embd_pdrop"),
            lambda values: {"dropout": values.get("resid_pdrop", 0.0)},
            lambda config: {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout},
        ),
        MappedField(
            ("qk_layernorm",),
            lambda values: {"attention.qk_norm": values.get("qk_layernorm", False)},
            lambda config: {"qk_layernorm": config.attention.qk_norm},
        ),
        rope(10_000.0, default_fraction=0.5),
    ),
    prefix="model.",
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=IGNORED,
)
