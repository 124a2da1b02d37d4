"""DeBERTa v1: disentangled attention over exact distances, with separate projections of positions."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    WeightMapping,
    encoder_task_classes,
    linear,
    norm,
    resized,
)

BASE = resized(
    bert.BASE,
    vocab_size=50265,
    embedding__num_types=0,
    norm__eps=1e-7,
    attention__key_bias=False,
    position__kind="disentangled",
    position__max_length=512,
    position__max_distance=512,
    position__num_buckets=0,
)


def tables(config: ModelConfig) -> list[WeightMapping]:
    """Return what v1 and v2 share: embeddings, distance table, attention output, feed-forward and head."""
    path = "model/encoder/blocks"
    name = "deberta.encoder.layer.{layer}"
    mappings = [
        WeightMapping("model/embedding/table", "deberta.embeddings.word_embeddings.weight", "v d -> v d"),
        *norm("model/encoder/front/norm", "deberta.embeddings.LayerNorm"),
        WeightMapping("model/encoder/distances/table", "deberta.encoder.rel_embeddings.weight"),
    ]
    if config.embedding.num_types:
        mappings.append(
            WeightMapping("model/encoder/front/types", "deberta.embeddings.token_type_embeddings.weight")
        )
    return [
        *mappings,
        *linear(f"{path}/attention/out", f"{name}.attention.output.dense", bert.OUT, "d"),
        *norm(f"{path}/attention_norm", f"{name}.attention.output.LayerNorm"),
        *linear(f"{path}/feedforward/in", f"{name}.intermediate.dense", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.output.dense", bias="f"),
        *norm(f"{path}/feedforward_norm", f"{name}.output.LayerNorm"),
        *linear("heads/mlm/dense", "cls.predictions.transform.dense", bias="f"),
        *norm("heads/mlm/norm", "cls.predictions.transform.LayerNorm"),
        WeightMapping("heads/mlm/bias", "cls.predictions.bias", "v -> v"),
    ]


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; queries, keys and values are packed head by head."""
    path = "model/encoder/blocks/attention"
    name = "deberta.encoder.layer.{layer}.attention.self"
    packed = [
        WeightMapping(f"{path}/{part}/kernel", f"{name}.in_proj.weight", "(n 3 h) d -> d n h", number)
        for number, part in enumerate(("query", "key", "value"))
    ]
    return [
        *tables(config),
        *packed,
        WeightMapping(f"{path}/query/bias", f"{name}.q_bias", "(n h) -> n h"),
        WeightMapping(f"{path}/value/bias", f"{name}.v_bias", "(n h) -> n h"),
        *linear(f"{path}/disentangled/key", f"{name}.pos_proj", bert.QUERY),
        *linear(f"{path}/disentangled/query", f"{name}.pos_q_proj", bert.QUERY, "(n h)"),
    ]


def _read_terms(values: Mapping[str, Any]) -> dict[str, Any]:
    terms = values.get("pos_att_type") or []
    terms = [term.strip() for term in terms.split("|")] if isinstance(terms, str) else terms
    if set(terms) != {"c2p", "p2c"}:
        raise ConfigError(f"config.json: pos_att_type = {terms!r} must be c2p and p2c")
    return {}


def _read_distances(values: Mapping[str, Any]) -> dict[str, Any]:
    max_length = values.get("max_position_embeddings", 512)
    max_distance = values.get("max_relative_positions", -1)
    return {
        "position.max_length": max_length,
        "position.max_distance": max_distance if max_distance > 0 else max_length,
        "position.num_buckets": max(0, values.get("position_buckets", -1)),
    }


def _write_distances(config: ModelConfig) -> dict[str, Any]:
    position = config.position
    return {
        "max_position_embeddings": position.max_length,
        "max_relative_positions": position.max_distance,
        "position_buckets": position.num_buckets or -1,
    }


# Shared by v1 and v2.
FIELDS = (
    MappedField(("pos_att_type",), _read_terms, lambda _: {"pos_att_type": ["p2c", "c2p"]}),
    MappedField(
        ("max_relative_positions", "max_position_embeddings", "position_buckets"),
        _read_distances,
        _write_distances,
    ),
    FixedField("relative_attention", (True,)),
    FixedField("position_biased_input", (False,)),
    FixedField("talking_head", (False,)),
    FixedField("legacy", (True, False)),  # affects the names of the head only
)
# Names of the head in files of the original code.
RENAMED = {
    r"^lm_predictions\.lm_head\.(dense|LayerNorm)\.": r"cls.predictions.transform.\1.",
    r"^lm_predictions\.lm_head\.bias$": "cls.predictions.bias",
}

FAMILY = Family(
    name="deberta",
    citation="He et al. 2021, DeBERTa: Decoding-enhanced BERT with Disentangled Attention, ICLR",
    base=BASE,
    sizes={
        "base": BASE,
        "large": bert.size(24, 1024, 16, BASE),
        "xlarge": bert.size(48, 1024, 16, BASE),
    },
    rows=rows,
    model_type="deberta",
    architectures={"DebertaForMaskedLM": ("heads/mlm",), "DebertaModel": ()},
    task_classes=encoder_task_classes("Deberta", "pooler.dense", "classifier", "gelu", "pooler_hidden_act"),
    fields=(*bert.fields(vocab_size=50265, type_vocab_size=0, layer_norm_eps=1e-7), *FIELDS),
    prefix="deberta.",
    copies={
        "cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=bert.FAMILY.ignored,
    renamed=RENAMED,
)
