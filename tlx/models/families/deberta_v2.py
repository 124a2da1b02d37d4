"""DeBERTa v2 and v3: bucketed distances, projections shared with the content, and an optional convolution."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError, one_of
from tlx.models.config import ModelConfig
from tlx.models.families import bert, deberta
from tlx.models.families.family import (
    ACTIVATIONS,
    ACTIVATIONS_WITH_TANH,
    Family,
    FixedField,
    MappedField,
    WeightMapping,
    encoder_task_classes,
    linear,
    norm,
    resized,
    written_name,
)

BASE = resized(
    deberta.BASE,
    vocab_size=128100,
    attention__key_bias=True,
    position__num_buckets=256,
    position__shared_projections=True,
    position__norm=True,
)


def _with_convolution(layers: int) -> ModelConfig:
    return resized(bert.size(layers, 1536, 24, BASE), embedding__conv_kernel_size=3)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/encoder/blocks/attention"
    name = "deberta.encoder.layer.{layer}.attention.self"
    mappings = deberta.tables(config)
    for part in ("query", "key", "value"):
        mappings += linear(f"{path}/{part}", f"{name}.{part}_proj", bert.QUERY, "(n h)")
    if config.position.norm:
        mappings += norm("model/encoder/distances/norm", "deberta.encoder.LayerNorm")
    if config.embedding.conv_kernel_size:
        convolution = "model/encoder/convolution"
        mappings += linear(convolution, "deberta.encoder.conv.conv", "o i k -> k i o", "o")
        mappings += norm(f"{convolution}/norm", "deberta.encoder.conv.LayerNorm")
    return mappings


def _read_norm(values: Mapping[str, Any]) -> dict[str, Any]:
    name = values.get("norm_rel_ebd", "none")
    if name not in ("none", "layer_norm"):
        raise ConfigError(f"config.json: norm_rel_ebd = {name!r} must be none or layer_norm")
    return {"position.norm": name == "layer_norm"}


def _write_norm(config: ModelConfig) -> dict[str, Any]:
    return {"norm_rel_ebd": "layer_norm" if config.position.norm else "none"}


def _read_convolution(values: Mapping[str, Any]) -> dict[str, Any]:
    size = values.get("conv_kernel_size", 0)
    if size <= 0:
        return {"embedding.conv_kernel_size": 0}
    if size % 2 == 0 or values.get("conv_groups", 1) != 1:
        raise ConfigError(f"config.json: conv_kernel_size = {size} must be odd, and conv_groups 1")
    name = values.get("conv_act", "tanh")
    if name not in ACTIVATIONS_WITH_TANH:
        raise ConfigError("config.json: " + one_of("conv_act", name, ACTIVATIONS_WITH_TANH))
    activation = ACTIVATIONS_WITH_TANH[name]
    layers = ACTIVATIONS.get(values.get("hidden_act", "gelu"))
    return {
        "embedding.conv_kernel_size": size,
        "embedding.conv_activation": "" if activation == layers else activation,
    }


def _write_convolution(config: ModelConfig) -> dict[str, Any]:
    part = config.embedding
    if not part.conv_kernel_size:
        return {}
    activation = part.conv_activation or config.feedforward.activation
    name = written_name(ACTIVATIONS_WITH_TANH, activation)
    return {"conv_kernel_size": part.conv_kernel_size, "conv_act": name}


def _read_head_dim(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the size of a head, which the class's output projection takes to be a fraction of the width."""
    head_dim = values.get("hidden_size", 1536) // values.get("num_attention_heads", 24)
    if values.get("attention_head_size", head_dim) != head_dim:
        raise ConfigError(
            f"config.json: attention_head_size = {values['attention_head_size']} must be hidden_size / "
            f"num_attention_heads = {head_dim}"
        )
    return {}


FAMILY = Family(
    name="deberta-v2",
    citation="He et al. 2021, DeBERTa, ICLR; He et al. 2023, DeBERTaV3, ICLR",
    base=BASE,
    sizes={
        "v3-xsmall": bert.size(12, 384, 6, BASE),
        "v3-small": bert.size(6, 768, 12, BASE),
        "v3-base": BASE,
        "v3-large": bert.size(24, 1024, 16, BASE),
        "mdeberta-v3-base": resized(BASE, vocab_size=251000),
        "v2-xlarge": _with_convolution(24),
        "v2-xxlarge": _with_convolution(48),
    },
    rows=rows,
    model_type="deberta-v2",
    architectures={"DebertaV2ForMaskedLM": ("heads/mlm",), "DebertaV2Model": ()},
    task_classes=encoder_task_classes("DebertaV2", "pooler.dense", "classifier", "gelu", "pooler_hidden_act"),
    fields=(
        *bert.fields(
            vocab_size=128100,
            hidden_size=1536,
            num_hidden_layers=24,
            num_attention_heads=24,
            intermediate_size=6144,
            type_vocab_size=0,
            layer_norm_eps=1e-7,
        ),
        *deberta.FIELDS,
        FixedField("share_att_key", (True,)),
        MappedField(("norm_rel_ebd",), _read_norm, _write_norm),
        MappedField(("attention_head_size",), _read_head_dim, lambda config: {}),
        MappedField(("conv_kernel_size", "conv_act", "conv_groups"), _read_convolution, _write_convolution),
    ),
    prefix="deberta.",
    copies=deberta.FAMILY.copies,
    ignored=bert.FAMILY.ignored,
    renamed=deberta.RENAMED,
)
