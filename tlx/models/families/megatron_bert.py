"""Megatron-LM's BERT: pre-norm, without a norm of the embeddings."""

from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import (
    Family,
    SameField,
    WeightMapping,
    encoder_task_classes,
    norm,
    resized,
)

BASE = resized(bert.BASE, vocab_size=29056, block_layout="pre", embedding__norm=False)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model: that of BERT with other norms."""
    path = "model/encoder/blocks"
    name = "bert.encoder.layer.{layer}"
    bert_mappings = [*bert.embeddings("bert."), *bert.layer("bert."), *bert.pretraining_heads("bert.")]
    return [
        *(row for row in bert_mappings if "_norm/" not in row.path and "front/norm" not in row.path),
        *norm(f"{path}/attention_norm", f"{name}.attention.ln"),
        *norm(f"{path}/feedforward_norm", f"{name}.ln"),
        *norm("model/encoder/final_norm", "bert.encoder.ln"),
    ]


FAMILY = Family(
    name="megatron-bert",
    citation="Shoeybi et al. 2019, Megatron-LM: Training Multi-Billion Parameter Language Models",
    base=BASE,
    sizes={
        "345m": bert.size(24, 1024, 16, BASE),
        "1.3b": bert.size(24, 2048, 32, BASE),
        "3.9b": bert.size(48, 2560, 40, BASE),
    },
    rows=rows,
    model_type="megatron-bert",
    architectures={
        "MegatronBertForPreTraining": ("heads/mlm", "heads/nsp"),
        "MegatronBertForMaskedLM": ("heads/mlm",),
        "MegatronBertModel": ("heads/nsp/pooler",),
    },
    fields=(
        *bert.fields(
            vocab_size=29056,
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
        ),
        SameField("max_position_embeddings", "position.max_length", 512),
    ),
    task_classes=encoder_task_classes("MegatronBert", "bert.pooler.dense"),
    prefix="bert.",
    copies=bert.FAMILY.copies,
    ignored=bert.FAMILY.ignored,
)
