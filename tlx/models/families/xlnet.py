"""XLNet: permutation language modelling with two-stream attention, relative positions and memory."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS,
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

LARGE = ModelConfig(
    kind="two_stream",
    vocab_size=32000,
    width=1024,
    num_layers=24,
    block_layout="post",
    dropout=0.1,
    position=PositionConfig(kind="relative_sinusoidal", segment_relative=True),
    attention=AttentionConfig(num_heads=16, dropout=0.1, qkv_bias=False, out_bias=False),
    feedforward=FeedForwardConfig(ff_dim=4096, activation="gelu", dropout=0.1),
    norm=NormConfig(eps=1e-12),
    head=HeadConfig(tied=True, bias=True),
    init=InitConfig(scale_residual=False),
)

_PATH = "model/blocks"
_NAME = "transformer.layer.{layer}"
_RELATIVE = f"{_PATH}/attention/relative"


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    return [
        WeightMapping("model/embedding/table", "transformer.word_embedding.weight", "v d -> v d"),
        WeightMapping("model/query_embedding", "transformer.mask_emb", "1 1 d -> d"),
        WeightMapping("model/output/bias", "lm_loss.bias", "v -> v"),
        WeightMapping(f"{_PATH}/attention/query/kernel", f"{_NAME}.rel_attn.q"),
        WeightMapping(f"{_PATH}/attention/key/kernel", f"{_NAME}.rel_attn.k"),
        WeightMapping(f"{_PATH}/attention/value/kernel", f"{_NAME}.rel_attn.v"),
        WeightMapping(f"{_PATH}/attention/out/kernel", f"{_NAME}.rel_attn.o", "d n h -> n h d"),
        WeightMapping(f"{_RELATIVE}/position/kernel", f"{_NAME}.rel_attn.r"),
        WeightMapping(f"{_RELATIVE}/content_bias", f"{_NAME}.rel_attn.r_w_bias"),
        WeightMapping(f"{_RELATIVE}/position_bias", f"{_NAME}.rel_attn.r_r_bias"),
        WeightMapping(f"{_RELATIVE}/segment_bias", f"{_NAME}.rel_attn.r_s_bias"),
        WeightMapping(f"{_RELATIVE}/segment", f"{_NAME}.rel_attn.seg_embed"),
        *norm(f"{_PATH}/attention_norm", f"{_NAME}.rel_attn.layer_norm"),
        *linear(f"{_PATH}/feedforward/in", f"{_NAME}.ff.layer_1", bias="f"),
        *linear(f"{_PATH}/feedforward/out", f"{_NAME}.ff.layer_2", bias="f"),
        *norm(f"{_PATH}/feedforward_norm", f"{_NAME}.ff.layer_norm"),
    ]


def _read_dropout(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the one rate of all dropouts."""
    rate = values.get("dropout", 0.1)
    return {"dropout": rate, "attention.dropout": rate, "feedforward.dropout": rate}


FAMILY = Family(
    name="xlnet",
    citation="Yang et al. 2019, XLNet: Generalized Autoregressive Pretraining, NeurIPS",
    base=LARGE,
    sizes={
        "base": resized(LARGE, num_layers=12, width=768, attention__num_heads=12, feedforward__ff_dim=3072),
        "large": LARGE,
    },
    rows=rows,
    model_type="xlnet",
    architectures={"XLNetLMHeadModel": (), "XLNetModel": ()},
    task_classes={
        "XLNetForSequenceClassification": TaskClass(
            "sequence",
            "logits_proj",
            "sequence_summary.summary",
            activation_key="summary_activation",
            fixed={"summary_type": ("last",), "summary_use_proj": (True,)},
        ),
        "XLNetForTokenClassification": TaskClass("token", "classifier"),
        "XLNetForQuestionAnsweringSimple": TaskClass("span", "qa_outputs"),
    },
    fields=(
        SameField("vocab_size", "vocab_size", 32000),
        SameField("d_model", "width", 1024),
        SameField("n_layer", "num_layers", 24),
        SameField("n_head", "attention.num_heads", 16),
        SameField("d_inner", "feedforward.ff_dim", 4096),
        SameField("ff_activation", "feedforward.activation", "gelu", ACTIVATIONS),
        SameField("layer_norm_eps", "norm.eps", 1e-12),
        SameField("initializer_range", "init.stddev", 0.02),
        MappedField(("dropout",), _read_dropout, lambda config: {"dropout": config.dropout}),
        FixedField("attn_type", ("bi",)),
        FixedField("untie_r", (True,)),
        FixedField("bi_data", (False,)),
        FixedField("clamp_len", (-1,)),
        FixedField("same_length", (False,)),
        FixedField("tie_word_embeddings", (True,)),
    ),
    prefix="transformer.",
    copies={"lm_loss.weight": "transformer.word_embedding.weight"},
)
