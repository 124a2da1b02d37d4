"""ALBERT: BERT with parameters shared by all layers, and a factorised embedding."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import (
    Family,
    MappedField,
    SameField,
    WeightMapping,
    encoder_task_classes,
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
    group_layers = config.num_group_layers
    # One layer's parameters are not stacked.
    numbers = ("{layer}", "{inner}") if config.num_layer_groups * group_layers > 1 else ("0", "0")
    name = "albert.encoder.albert_layer_groups.{}.albert_layers.{}".format(*numbers)
    mappings = bert.embeddings("albert.")
    for part in ("query", "key", "value"):
        mappings += linear(f"{path}/attention/{part}", f"{name}.attention.{part}", bert.QUERY, "(n h)")
    mappings = [
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
    return [dataclasses.replace(row, group_layers=group_layers) for row in mappings]


def _read_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the layers; each of Hugging Face's is a group's layers one after the other."""
    group_layers = values.get("inner_group_num", 1)
    groups = values.get("num_hidden_groups", 1)
    repeats = values.get("num_hidden_layers", 12)
    if min(groups, group_layers) < 1 or repeats % groups:
        raise ConfigError(
            f"config.json: num_hidden_groups = {groups} must divide num_hidden_layers = {repeats}, and "
            f"inner_group_num = {group_layers} be at least 1"
        )
    return {
        "num_layers": repeats * group_layers,
        "num_layer_groups": groups,
        "num_group_layers": group_layers,
    }


def _write_layers(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.num_layers // config.num_group_layers,
        "num_hidden_groups": config.num_layer_groups,
        "inner_group_num": config.num_group_layers,
    }


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
    task_classes=encoder_task_classes("Albert", "albert.pooler"),
    fields=(
        *(
            field
            for field in bert.fields(
                vocab_size=30000,
                hidden_size=4096,
                num_attention_heads=64,
                intermediate_size=16384,
                hidden_act="gelu_new",
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
            if field.key != "num_hidden_layers"
        ),
        MappedField(
            ("num_hidden_layers", "num_hidden_groups", "inner_group_num"), _read_layers, _write_layers
        ),
        SameField("max_position_embeddings", "position.max_length", 512),
        MappedField(
            ("embedding_size",), _read_embedding, lambda config: {"embedding_size": config.embedding.width}
        ),
    ),
    prefix="albert.",
    copies={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    ignored=bert.FAMILY.ignored,
)
