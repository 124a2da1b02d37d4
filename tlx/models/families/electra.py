"""ELECTRA: an encoder that tells replaced tokens, and the smaller one that replaced them."""

from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import Family, SameField, WeightMapping, linear, norm, resized

BASE = resized(bert.BASE, head__activation="gelu")


def _small(width: int, heads: int) -> ModelConfig:
    return resized(bert.size(12, width, heads, BASE), embedding__width=128 if width != 128 else 0)


def _generator(width: int, heads: int, layers: int, embedding: int) -> ModelConfig:
    """A fraction of the discriminator's width, the same depth; its tables have the discriminator's width."""
    return resized(bert.size(layers, width, heads, BASE), embedding__width=embedding)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """The key table."""
    found = [
        *bert.embeddings("electra."),
        *bert.layer("electra."),
        *linear("heads/mlm/dense", "generator_predictions.dense", bias="f"),
        *norm("heads/mlm/norm", "generator_predictions.LayerNorm"),
        WeightMapping("heads/mlm/bias", "generator_lm_head.bias", "v -> v"),
        *linear("heads/rtd/dense", "discriminator_predictions.dense", bias="f"),
        *linear("heads/rtd/classifier", "discriminator_predictions.dense_prediction", bias="f"),
    ]
    if config.embedding.width:
        found += linear("model/encoder/front/projection", "electra.embeddings_project", bias="f")
    return found


FAMILY = Family(
    name="electra",
    citation="Clark et al. 2020, ELECTRA: Pre-training Text Encoders as Discriminators, ICLR",
    base=BASE,
    sizes={
        "small": _small(256, 4),
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
