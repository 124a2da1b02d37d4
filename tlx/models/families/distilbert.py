"""DistilBERT: BERT with six layers and without token types."""

from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import (
    ACTIVATIONS,
    Family,
    FixedField,
    SameField,
    WeightMapping,
    encoder_task_classes,
    linear,
    norm,
    resized,
)

BASE = resized(bert.BASE, num_layers=6, embedding__num_types=0)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/encoder/blocks"
    name = "distilbert.transformer.layer.{layer}"
    mappings = bert.embeddings("distilbert.", types=False)
    for part, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        mappings += linear(f"{path}/attention/{part}", f"{name}.attention.{letter}_lin", bert.QUERY, "(n h)")
    return [
        *mappings,
        *linear(f"{path}/attention/out", f"{name}.attention.out_lin", bert.OUT, "d"),
        *norm(f"{path}/attention_norm", f"{name}.sa_layer_norm"),
        *linear(f"{path}/feedforward/in", f"{name}.ffn.lin1", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.ffn.lin2", bias="f"),
        *norm(f"{path}/feedforward_norm", f"{name}.output_layer_norm"),
        *linear("heads/mlm/dense", "vocab_transform", bias="f"),
        *norm("heads/mlm/norm", "vocab_layer_norm"),
        WeightMapping("heads/mlm/bias", "vocab_projector.bias", "v -> v"),
    ]


FAMILY = Family(
    name="distilbert",
    citation="Sanh et al. 2019, DistilBERT, a distilled version of BERT",
    base=BASE,
    sizes={"base": BASE},
    rows=rows,
    model_type="distilbert",
    architectures={"DistilBertForMaskedLM": ("heads/mlm",), "DistilBertModel": ()},
    task_classes=encoder_task_classes("DistilBert", "pre_classifier", activation="relu"),
    fields=(
        SameField("vocab_size", "vocab_size", 30522),
        SameField("dim", "width", 768),
        SameField("n_layers", "num_layers", 6),
        SameField("n_heads", "attention.num_heads", 12),
        SameField("hidden_dim", "feedforward.ff_dim", 3072),
        SameField("activation", "feedforward.activation", "gelu", ACTIVATIONS),
        SameField("dropout", "dropout", 0.1),
        SameField("attention_dropout", "attention.dropout", 0.1),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("max_position_embeddings", "position.max_length", 512),
        FixedField("sinusoidal_pos_embds", (False, True)),  # only the initialisation of the table
        FixedField("tie_word_embeddings", (True,)),
    ),
    prefix="distilbert.",
    copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=bert.FAMILY.ignored,
)
