"""CTRL: a pre-norm decoder with sinusoidal positions; the first token is the control code."""

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    TaskClass,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig

# Sinusoids are computed, so that max_length is not a limit.
BASE = ModelConfig(
    kind="decoder",
    vocab_size=246534,
    width=1280,
    num_layers=48,
    block_layout="pre",
    dropout=0.1,
    embedding=EmbeddingConfig(scale=True),
    position=PositionConfig(kind="sinusoidal", max_length=256),
    attention=AttentionConfig(num_heads=16),
    feedforward=FeedForwardConfig(ff_dim=8192, activation="relu"),
    norm=NormConfig(eps=1e-6),
    head=HeadConfig(tied=True, bias=True),
    init=InitConfig(scale_residual=False),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "transformer.h.{layer}"
    attention = f"{name}.multi_head_attention"
    mappings = [
        WeightMapping("model/embedding/table", "transformer.w.weight", "v d -> v d"),
        WeightMapping("model/output/bias", "lm_head.bias", "v -> v"),
        *norm("model/decoder/final_norm", "transformer.layernorm"),
        *norm(f"{path}/attention_norm", f"{name}.layernorm1"),
        *norm(f"{path}/feedforward_norm", f"{name}.layernorm2"),
        *linear(f"{path}/attention/out", f"{attention}.dense", "d (n h) -> n h d", "d"),
        *linear(f"{path}/feedforward/in", f"{name}.ffn.0", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.ffn.2", bias="f"),
    ]
    for projection, module in (("query", "Wq"), ("key", "Wk"), ("value", "Wv")):
        mappings += linear(
            f"{path}/attention/{projection}", f"{attention}.{module}", "(n h) d -> d n h", "(n h)"
        )
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


FAMILY = Family(
    name="ctrl",
    citation="Keskar et al. 2019, CTRL: A Conditional Transformer Language Model, arXiv:1909.05858",
    base=BASE,
    sizes={"large": resized(BASE)},
    rows=rows,
    model_type="ctrl",
    architectures={"CTRLLMHeadModel": (), "CTRLModel": ()},
    task_classes={"CTRLForSequenceClassification": TaskClass("sequence", "classifier", bias=False)},
    fields=(
        SameField("vocab_size", "vocab_size", 246534),
        SameField("n_positions", "position.max_length", 256),
        SameField("n_embd", "width", 1280),
        SameField("dff", "feedforward.ff_dim", 8192),
        SameField("n_layer", "num_layers", 48),
        SameField("n_head", "attention.num_heads", 16),
        MappedField(
            ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
            lambda values: {"dropout": values.get("resid_pdrop", 0.1)},
            lambda config: {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout},
        ),
        FixedField("layer_norm_epsilon", (1e-6,)),  # the class uses it for its last norm only
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("tie_word_embeddings", "head.tied", True),
    ),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.w.weight"},
)
