"""BERT: an encoder that predicts masked tokens and whether two segments follow each other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS,
    Family,
    FixedField,
    MappedField,
    SameField,
    WeightMapping,
    encoder_task_classes,
    linear,
    norm,
    resized,
)
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig

BASE = ModelConfig(
    kind="encoder",
    vocab_size=30522,
    width=768,
    num_layers=12,
    block_layout="post",
    dropout=0.1,
    embedding=EmbeddingConfig(num_types=2, norm=True),
    position=PositionConfig(kind="learned", max_length=512),
    attention=AttentionConfig(num_heads=12, dropout=0.1),
    feedforward=FeedForwardConfig(ff_dim=3072, activation="gelu"),
    norm=NormConfig(eps=1e-12),
    head=HeadConfig(tied=True),
    init=InitConfig(scale_residual=False),
)


def size(layers: int, width: int, heads: int, base: ModelConfig = BASE) -> ModelConfig:
    """Resize a model; the feed-forward has four times the width, as in all published sizes.

    Args:
        layers: Number of layers.
        width: Model width.
        heads: Number of attention heads.
        base: The model whose other fields are kept.

    Returns:
        The resized model config.
    """
    return resized(
        base, num_layers=layers, width=width, attention__num_heads=heads, feedforward__ff_dim=4 * width
    )


def fields(**defaults: Any) -> tuple[SameField | FixedField, ...]:
    """Return the fields that models derived from BERT share; `defaults` replace those of BERT's class."""
    bert_fields = (
        SameField("vocab_size", "vocab_size", 30522),
        SameField("hidden_size", "width", 768),
        SameField("num_hidden_layers", "num_layers", 12),
        SameField("num_attention_heads", "attention.num_heads", 12),
        SameField("intermediate_size", "feedforward.ff_dim", 3072),
        SameField("hidden_act", "feedforward.activation", "gelu", ACTIVATIONS),
        SameField("hidden_dropout_prob", "dropout", 0.1),
        SameField("attention_probs_dropout_prob", "attention.dropout", 0.1),
        SameField("layer_norm_eps", "norm.eps", 1e-12),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("type_vocab_size", "embedding.num_types", 2),
    )
    return (
        *(replace(field, default=defaults.get(field.key, field.default)) for field in bert_fields),
        FixedField("position_embedding_type", ("absolute",)),
        FixedField("is_decoder", (False,)),
        FixedField("add_cross_attention", (False,)),
        FixedField("tie_word_embeddings", (True,)),
    )


def factored(key: str, default: int, width: int) -> MappedField:
    """Return the field of the embedding width, where equal widths have no projection.

    Args:
        key: Key of config.json.
        default: Default embedding width of the Hugging Face class.
        width: Default model width of the Hugging Face class.

    Returns:
        The field; tlx's width of 0 stands for the width of the model.
    """

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        size = values.get(key, default)
        return {"embedding.width": 0 if size == values.get("hidden_size", width) else size}

    return MappedField((key,), read, lambda config: {key: config.embedding.width or config.width})


# Patterns of the projections of attention.
QUERY = "(n h) d -> d n h"
OUT = "d (n h) -> n h d"


def layer(prefix: str) -> list[WeightMapping]:
    """Return the mappings of the post-norm layers, named as in BERT, RoBERTa and ELECTRA."""
    path = "model/encoder/blocks"
    name = f"{prefix}encoder.layer.{{layer}}"
    mappings = []
    for part in ("query", "key", "value"):
        mappings += linear(f"{path}/attention/{part}", f"{name}.attention.self.{part}", QUERY, "(n h)")
    return [
        *mappings,
        *linear(f"{path}/attention/out", f"{name}.attention.output.dense", OUT, "d"),
        *norm(f"{path}/attention_norm", f"{name}.attention.output.LayerNorm"),
        *linear(f"{path}/feedforward/in", f"{name}.intermediate.dense", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.output.dense", bias="f"),
        *norm(f"{path}/feedforward_norm", f"{name}.output.LayerNorm"),
    ]


def embeddings(prefix: str, types: bool = True) -> list[WeightMapping]:
    """Return the mappings of the embeddings and of their norm."""
    path = "model/encoder/front"
    name = f"{prefix}embeddings"
    mappings = [
        WeightMapping("model/embedding/table", f"{name}.word_embeddings.weight", "v d -> v d"),
        WeightMapping(f"{path}/positions", f"{name}.position_embeddings.weight"),
    ]
    if types:
        mappings.append(WeightMapping(f"{path}/types", f"{name}.token_type_embeddings.weight"))
    return [*mappings, *norm(f"{path}/norm", f"{name}.LayerNorm")]


def pretraining_heads(prefix: str) -> list[WeightMapping]:
    """Return the mappings of the MLM transform, the pooler and the next-sentence classifier."""
    return [
        *linear("heads/mlm/dense", "cls.predictions.transform.dense", bias="f"),
        *norm("heads/mlm/norm", "cls.predictions.transform.LayerNorm"),
        WeightMapping("heads/mlm/bias", "cls.predictions.bias", "v -> v"),
        *linear("heads/nsp/pooler", f"{prefix}pooler.dense", bias="f"),
        *linear("heads/nsp/classifier", "cls.seq_relationship", bias="f"),
    ]


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    return [*embeddings("bert."), *layer("bert."), *pretraining_heads("bert.")]


FAMILY = Family(
    name="bert",
    citation="Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers, NAACL",
    base=BASE,
    sizes={
        "tiny": size(2, 128, 2),
        "mini": size(4, 256, 4),
        "small": size(4, 512, 8),
        "medium": size(8, 512, 8),
        "base": BASE,
        "large": size(24, 1024, 16),
    },
    rows=rows,
    model_type="bert",
    architectures={
        "BertForPreTraining": ("heads/mlm", "heads/nsp"),
        "BertForMaskedLM": ("heads/mlm",),
        "BertModel": ("heads/nsp/pooler",),
    },
    task_classes=encoder_task_classes("Bert", "bert.pooler.dense"),
    fields=(*fields(), SameField("max_position_embeddings", "position.max_length", 512)),
    prefix="bert.",
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=(r"embeddings\.position_ids$",),
)
