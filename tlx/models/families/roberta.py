"""RoBERTa: BERT without next-sentence prediction; positions are numbered from the padding id + 1."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import (
    Family,
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
    embedding__num_types=1,
    position__max_length=512,
    position__offset=2,
    norm__eps=1e-5,
    head__activation="gelu",
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    return [
        *bert.embeddings("roberta."),
        *bert.layer("roberta."),
        *linear("heads/mlm/dense", "lm_head.dense", bias="f"),
        *norm("heads/mlm/norm", "lm_head.layer_norm"),
        WeightMapping("heads/mlm/bias", "lm_head.bias", "v -> v"),
        *linear("heads/nsp/pooler", "roberta.pooler.dense", bias="f"),
    ]


def read_positions(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the position table, whose first row in use follows that of the padding id."""
    offset = values.get("pad_token_id", 1) + 1
    return {
        "position.offset": offset,
        "position.max_length": values.get("max_position_embeddings", 512) - offset,
    }


def write_positions(config: ModelConfig) -> dict[str, Any]:
    """Write the rows of the position table, and the padding id that they follow."""
    position = config.position
    return {
        "pad_token_id": position.offset - 1,
        "max_position_embeddings": position.max_length + position.offset,
    }


def family(name: str, citation: str, vocab_size: int, classes: str) -> Family:
    """Return a family of this architecture with another vocabulary.

    Args:
        name: Name of the family, and `model_type` in config.json.
        citation: Authors, year, title and venue of the paper.
        vocab_size: Vocabulary size.
        classes: Prefix of the Hugging Face classes ("Roberta").

    Returns:
        The family.
    """
    base = resized(BASE, vocab_size=vocab_size)
    return Family(
        name=name,
        citation=citation,
        base=base,
        sizes={"base": base, "large": bert.size(24, 1024, 16, base)},
        rows=rows,
        model_type=name,
        architectures={f"{classes}ForMaskedLM": ("heads/mlm",), f"{classes}Model": ("heads/nsp/pooler",)},
        task_classes=encoder_task_classes(classes, "classifier.dense", "classifier.out_proj"),
        fields=(
            *bert.fields(vocab_size=vocab_size),
            MappedField(("max_position_embeddings", "pad_token_id"), read_positions, write_positions),
        ),
        prefix="roberta.",
        copies={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        ignored=(r"embeddings\.position_ids$",),
    )


FAMILY = family(
    "roberta", "Liu et al. 2019, RoBERTa: A Robustly Optimized BERT Pretraining Approach", 50265, "Roberta"
)
