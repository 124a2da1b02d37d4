"""StarCoder 2: grouped-query attention with rotary positions in GPT-2's block, with biases."""

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
from tlx.models.families.llama import COPIES, IGNORED, attention, fields_of, outside, size
from tlx.models.families.phi3 import FAMILY as PHI3
from tlx.models.families.rope import rope
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

# Of the class, where config.json lacks a key.
DEFAULTS = ModelConfig(
    kind="decoder",
    vocab_size=49152,
    width=3072,
    num_layers=30,
    block_layout="pre",
    position=PositionConfig(kind="rotary", max_length=4096),
    attention=AttentionConfig(num_heads=24, num_kv_heads=2),
    feedforward=FeedForwardConfig(ff_dim=12288, activation="gelu_tanh"),
    norm=NormConfig(eps=1e-5),
    head=HeadConfig(tied=True),
    init=InitConfig(stddev=0.018042, scale_residual=False),
)
BASE = resized(
    DEFAULTS, position__max_length=16384, position__theta=999_999.4420358813, attention__window=4096
)
_BIASES = ("attention.qkv_bias", "attention.out_bias", "feedforward.bias")


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    bias = "f" if config.feedforward.bias else ""
    return [
        *outside(config),
        *attention(f"{path}/attention", f"{name}.self_attn", config),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.c_fc", bias=bias),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.c_proj", bias=bias),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm"),
        *norm(f"{path}/feedforward_norm", f"{name}.post_attention_layernorm"),
    ]


FAMILY = Family(
    name="starcoder2",
    citation="Lozhkov et al. 2024, StarCoder 2 and The Stack v2: The Next Generation, arXiv:2402.19173",
    base=BASE,
    sizes={
        "3b": BASE,
        "7b": size(
            resized(BASE, position__theta=1_000_000.0), 32, 4608, 36, 18432, attention__num_kv_heads=4
        ),
        "15b": size(
            resized(BASE, position__theta=100_000.0, head__tied=False),
            40,
            6144,
            48,
            24576,
            attention__num_kv_heads=4,
        ),
    },
    rows=rows,
    model_type="starcoder2",
    architectures={"Starcoder2ForCausalLM": (), "Starcoder2Model": ()},
    task_classes={
        "Starcoder2ForSequenceClassification": TaskClass("sequence", "score", bias=False),
        "Starcoder2ForTokenClassification": TaskClass("token", "score"),
    },
    fields=(
        *fields_of(DEFAULTS, eps="norm_epsilon", head_dim=False),
        MappedField(
            ("residual_dropout", "embedding_dropout"),
            lambda values: {"dropout": values.get("residual_dropout", 0.0)},
            lambda config: {"residual_dropout": config.dropout, "embedding_dropout": config.dropout},
        ),
        MappedField(
            ("use_bias",),
            lambda values: dict.fromkeys(_BIASES, values.get("use_bias", True)),
            lambda config: {"use_bias": config.feedforward.bias},
        ),
        next(field for field in PHI3.fields if "sliding_window" in getattr(field, "keys", ())),
        rope(10_000.0),
    ),
    prefix="model.",
    copies=COPIES,
    ignored=IGNORED,
)
