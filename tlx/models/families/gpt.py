"""GPT-1: a post-norm decoder with learned positions and no final norm."""

from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    Family,
    MappedField,
    SameField,
    TaskClass,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.models.families.gpt2 import BASE as GPT2

BASE = resized(
    GPT2, vocab_size=40478, block_layout="post", position__max_length=512, init__scale_residual=False
)

# In this class "gelu" is the tanh approximation. The official softmax also includes the position embeddings.
ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; matrices are stored as [inputs, outputs]."""
    path = "model/decoder/blocks"
    name = "transformer.h.{layer}"
    mappings = [
        WeightMapping("model/embedding/table", "transformer.tokens_embed.weight", "v d -> v d"),
        WeightMapping("model/decoder/front/positions", "transformer.positions_embed.weight"),
        *norm(f"{path}/attention_norm", f"{name}.ln_1"),
        *norm(f"{path}/feedforward_norm", f"{name}.ln_2"),
        *linear(f"{path}/attention/out", f"{name}.attn.c_proj", "(n h) d -> n h d", "d"),
        *linear(f"{path}/feedforward/in", f"{name}.mlp.c_fc", "d f -> d f", "f"),
        *linear(f"{path}/feedforward/out", f"{name}.mlp.c_proj", "f d -> f d", "d"),
    ]
    for index, projection in enumerate(("query", "key", "value")):
        mappings += linear(
            f"{path}/attention/{projection}", f"{name}.attn.c_attn", "d (3 n h) -> d n h", "(3 n h)", index
        )
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


FAMILY = Family(
    name="gpt",
    citation="Radford et al. 2018, Improving Language Understanding by Generative Pre-Training",
    base=BASE,
    sizes={"base": BASE},
    rows=rows,
    model_type="openai-gpt",
    architectures={"OpenAIGPTLMHeadModel": (), "OpenAIGPTModel": ()},
    task_classes={"OpenAIGPTForSequenceClassification": TaskClass("sequence", "score", bias=False)},
    fields=(
        SameField("vocab_size", "vocab_size", 40478),
        SameField("n_positions", "position.max_length", 512),
        SameField("n_embd", "width", 768),
        SameField("n_layer", "num_layers", 12),
        SameField("n_head", "attention.num_heads", 12),
        MappedField(  # it has no key, and is always four times the width
            (),
            lambda values: {"feedforward.ff_dim": 4 * values.get("n_embd", 768)},
            lambda config: {},
        ),
        SameField("afn", "feedforward.activation", "gelu", ACTIVATIONS),
        MappedField(
            ("resid_pdrop", "embd_pdrop"),
            lambda values: {"dropout": values.get("resid_pdrop", 0.1)},
            lambda config: {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout},
        ),
        SameField("attn_pdrop", "attention.dropout", 0.1),
        SameField("layer_norm_epsilon", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.02),
        SameField("tie_word_embeddings", "head.tied", True),
    ),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.tokens_embed.weight"},
    ignored=(r"\.attn\.bias$", r"position_ids$"),
)
