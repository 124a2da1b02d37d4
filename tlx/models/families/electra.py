"""ELECTRA: a discriminator that detects replaced tokens, and the smaller generator that replaces them."""

from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import (
    Family,
    SameField,
    WeightMapping,
    encoder_task_classes,
    linear,
    norm,
    resized,
)

BASE = resized(bert.BASE, head__activation="gelu")


def _generator(width: int, heads: int, layers: int, embedding: int) -> ModelConfig:
    """A fraction of the discriminator's width, with its depth and the width of its embeddings."""
    return resized(bert.size(layers, width, heads, BASE), embedding__width=embedding)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    mappings = [
        *bert.embeddings("electra."),
        *bert.layer("electra."),
        *linear("heads/mlm/dense", "generator_predictions.dense", bias="f"),
        *norm("heads/mlm/norm", "generator_predictions.LayerNorm"),
        WeightMapping("heads/mlm/bias", "generator_lm_head.bias", "v -> v"),
        *linear("heads/rtd/dense", "discriminator_predictions.dense", bias="f"),
        *linear("heads/rtd/classifier", "discriminator_predictions.dense_prediction", bias="f"),
    ]
    if config.embedding.width:
        mappings += linear("model/encoder/front/projection", "electra.embeddings_project", bias="f")
    return mappings


FAMILY = Family(
    name="electra",
    citation="Clark et al. 2020, ELECTRA: Pre-training Text Encoders as Discriminators, ICLR",
    base=BASE,
    sizes={
        "small": resized(bert.size(12, 256, 4, BASE), embedding__width=128),
        "base": BASE,
        "large": bert.size(24, 1024, 16, BASE),
        "small-generator": _generator(64, 1, 12, 128),
        "base-generator": _generator(256, 4, 12, 768),
        "large-generator": _generator(256, 4, 24, 1024),
    },
    rows=rows,
    model_type="electra",
    architectures={
        "ElectraForPreTraining": ("heads/rtd",),
        "ElectraForMaskedLM": ("heads/mlm",),
        "ElectraModel": (),
    },
    task_classes=encoder_task_classes("Electra", "classifier.dense", "classifier.out_proj", "gelu"),
    fields=(
        *bert.fields(hidden_size=256, num_attention_heads=4, intermediate_size=1024),
        SameField("max_position_embeddings", "position.max_length", 512),
        bert.factored("embedding_size", 128, 256),
    ),
    prefix="electra.",
    copies={
        "generator_lm_head.weight": "electra.embeddings.word_embeddings.weight",
    },
    ignored=bert.FAMILY.ignored,
)
