"""Nomic BERT: BERT with rotary positions, a gated feed-forward and no biases but those of norms and head."""

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS,
    Family,
    FixedField,
    MappedField,
    SameField,
    TaskClass,
    WeightMapping,
    linear,
    norm,
)
from tlx.models.families.rope import rope
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig

BASE = ModelConfig(
    kind="encoder",
    vocab_size=30528,
    width=768,
    num_layers=12,
    block_layout="post",
    embedding=EmbeddingConfig(num_types=2, norm=True),
    position=PositionConfig(kind="rotary", max_length=2048, theta=1000.0),
    attention=AttentionConfig(num_heads=12, qkv_bias=False, out_bias=False),
    feedforward=FeedForwardConfig(ff_dim=3072, activation="silu", gated=True, bias=False),
    norm=NormConfig(eps=1e-12),
    init=InitConfig(scale_residual=False),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model, with the names of its first code, which the class writes too."""
    path = "model/encoder/blocks"
    front = "model/encoder/front"
    name = "nomic_bert.encoder.layers.{layer}"
    mappings = [
        WeightMapping("model/embedding/table", "nomic_bert.embeddings.word_embeddings.weight", "v d -> v d"),
        WeightMapping(f"{front}/types", "nomic_bert.embeddings.token_type_embeddings.weight"),
        *norm(f"{front}/norm", "nomic_bert.emb_ln"),
        *linear(f"{path}/attention/out", f"{name}.attn.out_proj", "d (n h) -> n h d"),
        *norm(f"{path}/attention_norm", f"{name}.norm1"),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.fc11"),
        *linear(f"{path}/feedforward/gate", f"{name}.mlp.fc12"),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.fc2"),
        *norm(f"{path}/feedforward_norm", f"{name}.norm2"),
        *linear("heads/mlm/dense", "cls.predictions.transform.dense", bias="f"),
        *norm("heads/mlm/norm", "cls.predictions.transform.layer_norm"),
        WeightMapping("heads/mlm/bias", "cls.predictions.bias", "v -> v"),
    ]
    for part, projection in enumerate(("query", "key", "value")):
        mappings += linear(
            f"{path}/attention/{projection}", f"{name}.attn.Wqkv", "(3 n h) d -> d n h", part=part
        )
    return mappings


FAMILY = Family(
    name="nomic-bert",
    citation="Nussbaum et al. 2024, Nomic Embed: Training a Reproducible Long Context Text Embedder, "
    "arXiv:2402.01613",
    base=BASE,
    sizes={"base": BASE},
    rows=rows,
    model_type="nomic_bert",
    architectures={"NomicBertForMaskedLM": ("heads/mlm",), "NomicBertModel": ()},
    task_classes={"NomicBertForTokenClassification": TaskClass("token", "classifier")},
    fields=(
        SameField("vocab_size", "vocab_size", 30528),
        SameField("hidden_size", "width", 768),
        SameField("num_hidden_layers", "num_layers", 12),
        SameField("num_attention_heads", "attention.num_heads", 12),
        SameField("intermediate_size", "feedforward.ff_dim", 3072),
        SameField("hidden_act", "feedforward.activation", "silu", ACTIVATIONS),
        SameField("hidden_dropout_prob", "dropout", 0.0),
        SameField("attention_probs_dropout_prob", "attention.dropout", 0.0),
        SameField("max_position_embeddings", "position.max_length", 2048),
        SameField("type_vocab_size", "embedding.num_types", 2),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("layer_norm_eps", "norm.eps", 1e-12),
        MappedField(
            ("head_dim",),
            lambda values: {"attention.head_dim": values.get("head_dim") or 0},
            lambda config: {"head_dim": config.block("encoder").head_dim},
        ),
        FixedField("tie_word_embeddings", (True,)),
        rope(1000.0),
    ),
    prefix="nomic_bert.",
    copies={
        "cls.predictions.decoder.weight": "nomic_bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    renamed={r"^bert\.": "nomic_bert."},
    ignored=(r"embeddings\.position_ids$", r"rotary_emb\.inv_freq$"),
)
