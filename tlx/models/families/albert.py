"""ALBERT: BERT with parameters shared by all layers, and a factorised embedding."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    WeightMapping,
    linear,
    norm,
    resized,
)

BASE = resized(
    bert.BASE,
    vocab_size=30000,
    dropout=0.0,
    attention__dropout=0.0,
    share_layers=True,
    embedding__width=128,
    feedforward__activation="gelu_tanh",
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/encoder/blocks"
    name = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    mappings = bert.embeddings("albert.")
    for part in ("query", "key", "value"):
        mappings += linear(f"{path}/attention/{part}", f"{name}.attention.{part}", bert.QUERY, "(n h)")
    return [
        *mappings,
        *linear("model/encoder/front/projection", "albert.encoder.embedding_hidden_mapping_in", bias="f"),
        *linear(f"{path}/attention/out", f"{name}.attention.dense", bert.OUT, "d"),
        *norm(f"{path}/attention_norm", f"{name}.attention.LayerNorm"),
        *linear(f"{path}/feedforward/in", f"{name}.ffn", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.ffn_output", bias="f"),
        *norm(f"{path}/feedforward_norm", f"{name}.full_layer_layer_norm"),
        *linear("heads/mlm/dense", "predictions.dense", bias="f"),
        *norm("heads/mlm/norm", "predictions.LayerNorm"),
        WeightMapping("heads/mlm/bias", "predictions.bias", "v -> v"),
        *linear("heads/sop/pooler", "albert.pooler", bias="f"),
        *linear("heads/sop/classifier", "sop_classifier.classifier", bias="f"),
    ]


def _read_embedding(values: Mapping[str, Any]) -> dict[str, Any]:
    # Hugging Face always projects the embedding; tlx only where its width differs from the model's.
    size = values.get("embedding_size", 128)
    if size == values.get("hidden_size", 4096):
        raise ConfigError(
            f"config.json: embedding_size = {size} equals hidden_size: tlx has no projection between equal widths"
        )
    return {"embedding.width": size}


FAMILY = Family(
    name="albert",
    citation="Lan et al. 2020, ALBERT: A Lite BERT for Self-supervised Learning, ICLR",
    base=BASE,
    sizes={
        "base": bert.size(12, 768, 12, BASE),
        "large": bert.size(24, 1024, 16, BASE),
        "xlarge": bert.size(24, 2048, 16, BASE),
        "xxlarge": bert.size(12, 4096, 64, BASE),
    },
    rows=rows,
    model_type="albert",
    architectures={
        "AlbertForPreTraining": ("heads/mlm", "heads/sop"),
        "AlbertForMaskedLM": ("heads/mlm",),
        "AlbertModel": ("heads/sop/pooler",),
    },
    fields=(
        *bert.fields(
            vocab_size=30000,
            hidden_size=4096,
            num_attention_heads=64,
            intermediate_size=16384,
            hidden_act="gelu_new",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        SameField("max_position_embeddings", "position.max_length", 512),
        MappedField(
            ("embedding_size",), _read_embedding, lambda config: {"embedding_size": config.embedding.width}
        ),
        FixedField("num_hidden_groups", (1,)),
        FixedField("inner_group_num", (1,)),
    ),
    prefix="albert.",
    copies={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    ignored=bert.FAMILY.ignored,
)
