"""MobileBERT: a deep and narrow BERT, whose layers run between bottlenecks."""

from collections.abc import Mapping
from dataclasses import replace
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
    encoder_task_classes,
    linear,
    norm,
    replaced,
)

BASE = replaced(
    bert.BASE,
    {
        "width": 512,
        "num_layers": 24,
        "dropout": 0.0,
        "bottleneck.width": 128,
        "embedding.width": 128,
        "embedding.neighbors": True,
        "attention.num_heads": 4,
        "feedforward.ff_dim": 512,
        "feedforward.activation": "relu",
        "norm.kind": "affine",
        "head.half_tied": True,
        "head.pooler": False,
    },
)
TINY = replaced(BASE, {"bottleneck.attention_input": "narrow", "bottleneck.num_feedforwards": 2})
TEACHER = replaced(
    BASE,
    {
        "dropout": 0.1,
        "bottleneck.width": 1024,
        "bottleneck.attention_input": "stream",
        "bottleneck.num_feedforwards": 1,
        "feedforward.ff_dim": 4096,
        "feedforward.activation": "gelu",
        "norm.kind": "layernorm",
    },
)


def _layer() -> list[WeightMapping]:
    """Return the mappings of what every layer has."""
    path = "model/encoder/blocks"
    name = "mobilebert.encoder.layer.{layer}"
    mappings = []
    for part in ("query", "key", "value"):
        mappings += linear(f"{path}/attention/{part}", f"{name}.attention.self.{part}", bert.QUERY, "(n h)")
    return [
        *mappings,
        *linear(f"{path}/attention/out", f"{name}.attention.output.dense", bert.OUT, "d"),
        *norm(f"{path}/attention_norm", f"{name}.attention.output.LayerNorm"),
        *linear(f"{path}/input", f"{name}.bottleneck.input.dense", bias="f"),
        *norm(f"{path}/input_norm", f"{name}.bottleneck.input.LayerNorm"),
        *linear(f"{path}/output", f"{name}.output.bottleneck.dense", bias="f"),
        *norm(f"{path}/output_norm", f"{name}.output.bottleneck.LayerNorm"),
    ]


def _feedforwards(config: ModelConfig) -> list[WeightMapping]:
    """Return the mappings of a layer's networks, of which the last has another name."""
    path = "model/encoder/blocks"
    last = config.bottleneck.num_feedforwards - 1
    mappings = []
    for i in range(last + 1):
        name = f"mobilebert.encoder.layer.{{layer}}{f'.ffn.{i}' if i < last else ''}"
        mappings += linear(f"{path}/feedforwards_{i}/in", f"{name}.intermediate.dense", bias="f")
        mappings += linear(f"{path}/feedforwards_{i}/out", f"{name}.output.dense", bias="f")
        mappings += norm(f"{path}/feedforward_norms_{i}", f"{name}.output.LayerNorm")
    return mappings


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    front = "model/encoder/front"
    mappings = [
        *bert.embeddings("mobilebert."),
        *linear(f"{front}/neighbors", "mobilebert.embeddings.embedding_transformation", bias="f"),
        *_layer(),
        *_feedforwards(config),
        WeightMapping("model/output/kernel", "cls.predictions.dense.weight", "e v -> v e"),
    ]
    if config.bottleneck.attention_input == "projection":
        path = "model/encoder/blocks/query_key"
        name = "mobilebert.encoder.layer.{layer}.bottleneck.attention"
        mappings += linear(path, f"{name}.dense", bias="f")
        mappings += norm(f"{path}_norm", f"{name}.LayerNorm")
    heads = bert.pretraining_heads("mobilebert.")
    if not config.head.pooler:
        heads = [row for row in heads if not row.path.startswith("heads/nsp/pooler")]
    return [*mappings, *heads]


def _read_bottleneck(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read what attention reads. The class cannot run the third choice, the stream itself, which its config has."""
    shared = values.get("key_query_shared_bottleneck", True)
    narrow = values.get("use_bottleneck_attention", False)
    if shared == narrow:
        raise ConfigError(
            f"config.json: key_query_shared_bottleneck = {shared} with use_bottleneck_attention = {narrow}: queries "
            "and keys have a bottleneck of their own (true, false) or the layer's (false, true)"
        )
    width = values.get("intra_bottleneck_size", 128)
    if values.get("true_hidden_size", width) != width:
        raise ConfigError(
            f"config.json: true_hidden_size = {values['true_hidden_size']} must be intra_bottleneck_size = {width}"
        )
    return {"bottleneck.width": width, "bottleneck.attention_input": "projection" if shared else "narrow"}


def _write_bottleneck(config: ModelConfig) -> dict[str, Any]:
    is_narrow = config.bottleneck.attention_input == "narrow"
    return {
        "intra_bottleneck_size": config.bottleneck.width,
        "key_query_shared_bottleneck": not is_narrow,
        "use_bottleneck_attention": is_narrow,
    }


def _read_norm(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the norms. With statistics the class gives two of them 1e-5 whatever its config says."""
    name = values.get("normalization_type", "no_norm")
    eps = values.get("layer_norm_eps", 1e-12)
    if name not in ("no_norm", "layer_norm"):
        raise ConfigError(f"config.json: normalization_type = {name!r} must be no_norm or layer_norm")
    if name == "layer_norm" and eps != 1e-5:
        raise ConfigError(
            f"config.json: layer_norm_eps = {eps} with normalization_type = 'layer_norm' must be 1e-05, which the "
            "class of transformers gives to the norms of the embeddings and of the last feed-forward network always"
        )
    return {"norm.kind": "affine" if name == "no_norm" else "layernorm", "norm.eps": eps}


def _write_norm(config: ModelConfig) -> dict[str, Any]:
    name = "no_norm" if config.norm.kind == "affine" else "layer_norm"
    return {"normalization_type": name, "layer_norm_eps": config.norm.eps}


_DEFAULTS = {
    "hidden_size": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.0,
}
_FIELDS = [field for field in bert.fields(**_DEFAULTS) if field.key != "layer_norm_eps"]
_TASK_CLASSES = encoder_task_classes("MobileBert", "mobilebert.pooler.dense")

FAMILY = Family(
    name="mobilebert",
    citation="Sun et al. 2020, MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices, ACL",
    base=BASE,
    sizes={"base": BASE, "tiny": TINY, "ib-bert-large": TEACHER},
    rows=rows,
    model_type="mobilebert",
    architectures={
        "MobileBertForPreTraining": ("heads/mlm", "heads/nsp"),
        "MobileBertForMaskedLM": ("heads/mlm",),
        "MobileBertModel": ("heads/nsp/pooler",),
    },
    task_classes={
        name: replace(head, dense_key="classifier_activation") if head.dense else head
        for name, head in _TASK_CLASSES.items()
    },
    fields=(
        *_FIELDS,
        SameField("max_position_embeddings", "position.max_length", 512),
        SameField("embedding_size", "embedding.width", 128),
        SameField("num_feedforward_networks", "bottleneck.num_feedforwards", 4),
        SameField("classifier_activation", "head.pooler", True),
        FixedField("trigram_input", (True,)),
        FixedField("use_bottleneck", (True,)),
        MappedField(
            (
                "intra_bottleneck_size",
                "key_query_shared_bottleneck",
                "use_bottleneck_attention",
                "true_hidden_size",
            ),
            _read_bottleneck,
            _write_bottleneck,
        ),
        MappedField(("normalization_type", "layer_norm_eps"), _read_norm, _write_norm),
    ),
    prefix="mobilebert.",
    copies={
        "cls.predictions.decoder.weight": "mobilebert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=bert.FAMILY.ignored,
)
