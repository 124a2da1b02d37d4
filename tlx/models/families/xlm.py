"""XLM: a multilingual encoder with language embeddings."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families import bert
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    TaskClass,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.text.imported_frame import FrameRules

BASE = resized(
    bert.BASE,
    vocab_size=30145,
    width=2048,
    attention__num_heads=16,
    feedforward__ff_dim=8192,
    embedding__num_types=0,
    head__transform=False,
)


def _size(layers: int, width: int, heads: int, vocab: int, langs: int) -> ModelConfig:
    return resized(bert.size(layers, width, heads, BASE), vocab_size=vocab, embedding__num_languages=langs)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/encoder/blocks"
    front = "model/encoder/front"
    mappings = [
        WeightMapping("model/embedding/table", "transformer.embeddings.weight", "v d -> v d"),
        WeightMapping(f"{front}/positions", "transformer.position_embeddings.weight"),
        *norm(f"{front}/norm", "transformer.layer_norm_emb"),
        WeightMapping("heads/mlm/bias", "pred_layer.proj.bias", "v -> v"),
    ]
    if config.embedding.num_languages:
        mappings.append(WeightMapping(f"{front}/languages", "transformer.lang_embeddings.weight"))
    for part, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        name = f"transformer.attentions.{{layer}}.{letter}_lin"
        mappings += linear(f"{path}/attention/{part}", name, bert.QUERY, "(n h)")
    return [
        *mappings,
        *linear(f"{path}/attention/out", "transformer.attentions.{layer}.out_lin", bert.OUT, "d"),
        *norm(f"{path}/attention_norm", "transformer.layer_norm1.{layer}"),
        *linear(f"{path}/feedforward/in", "transformer.ffns.{layer}.lin1", bias="f"),
        *linear(f"{path}/feedforward/out", "transformer.ffns.{layer}.lin2", bias="f"),
        *norm(f"{path}/feedforward_norm", "transformer.layer_norm2.{layer}"),
    ]


def _read_ff_dim(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"feedforward.ff_dim": 4 * values.get("emb_dim", 2048)}


def _read_languages(values: Mapping[str, Any]) -> dict[str, Any]:
    count = values.get("n_langs", 1) if values.get("use_lang_emb", True) else 0
    return {"embedding.num_languages": count if count > 1 else 0}


def _write_languages(config: ModelConfig) -> dict[str, Any]:
    return {"n_langs": config.embedding.num_languages or 1, "use_lang_emb": True}


FAMILY = Family(
    name="xlm",
    citation="Conneau and Lample 2019, Cross-lingual Language Model Pretraining, NeurIPS",
    base=BASE,
    sizes={
        "mlm-en-2048": BASE,
        "mlm-tlm-xnli15-1024": _size(12, 1024, 8, 95000, 15),
        "mlm-17-1280": _size(16, 1280, 16, 200000, 0),
        "mlm-100-1280": _size(16, 1280, 16, 200000, 0),
    },
    rows=rows,
    model_type="xlm",
    architectures={"XLMWithLMHeadModel": ("heads/mlm",), "XLMModel": ()},
    task_classes={
        "XLMForSequenceClassification": TaskClass(
            "sequence",
            "sequence_summary.summary",
            fixed={
                "summary_type": ("first",),
                "summary_use_proj": (True,),
                "summary_activation": (None,),
                "summary_proj_to_labels": (True,),
            },
        ),
        "XLMForTokenClassification": TaskClass("token", "classifier"),
        "XLMForQuestionAnsweringSimple": TaskClass("span", "qa_outputs"),
    },
    fields=(
        SameField("vocab_size", "vocab_size", 30145),
        SameField("emb_dim", "width", 2048),
        SameField("n_layers", "num_layers", 12),
        SameField("n_heads", "attention.num_heads", 16),
        SameField("dropout", "dropout", 0.1),
        SameField("attention_dropout", "attention.dropout", 0.1),
        SameField("gelu_activation", "feedforward.activation", True, {True: "gelu", False: "relu"}),
        SameField("layer_norm_eps", "norm.eps", 1e-12),
        SameField("init_std", "init.stddev", 0.02),
        SameField("embed_init_std", "init.embedding_stddev", 2048**-0.5),
        SameField("max_position_embeddings", "position.max_length", 512),
        MappedField(("n_langs", "use_lang_emb"), _read_languages, _write_languages),
        # The feed-forward has four times the width and no key.
        MappedField(("emb_dim",), _read_ff_dim, lambda _: {}),
        FixedField("sinusoidal_embeddings", (False, True)),  # only the initialisation of the table
        FixedField("causal", (False,)),
        FixedField("asm", (False,)),
        FixedField("is_encoder", (True,)),
        FixedField("tie_word_embeddings", (True,)),
    ),
    prefix="transformer.",
    copies={"pred_layer.proj.weight": "transformer.embeddings.weight"},
    ignored=(r"^(transformer\.)?position_ids$",),
    frame=FrameRules(language_rows="lang2id", language_switch="use_lang_emb"),
)
