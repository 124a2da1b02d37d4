"""MPNet: RoBERTa with T5's bias by buckets of distances beside learned positions."""

from tlx.models.config import ModelConfig
from tlx.models.families import bert, roberta
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
    roberta.BASE,
    vocab_size=30527,
    embedding__num_types=0,
    position__kind="relative_bias",
    position__absolute=True,
    norm__eps=1e-5,
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/encoder/blocks"
    name = "mpnet.encoder.layer.{layer}"
    # The class adds the bias to scaled logits, tlx before it scales them.
    unscaled = config.block("encoder").softmax_scale ** -1
    mappings = [
        *bert.embeddings("mpnet.", types=False),
        WeightMapping(
            "model/encoder/position_bias/table",
            "mpnet.encoder.relative_attention_bias.weight",
            times=unscaled,
        ),
        *linear(f"{path}/attention/out", f"{name}.attention.attn.o", bert.OUT, "d"),
        *norm(f"{path}/attention_norm", f"{name}.attention.LayerNorm"),
        *linear(f"{path}/feedforward/in", f"{name}.intermediate.dense", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.output.dense", bias="f"),
        *norm(f"{path}/feedforward_norm", f"{name}.output.LayerNorm"),
        *linear("heads/mlm/dense", "lm_head.dense", bias="f"),
        *norm("heads/mlm/norm", "lm_head.layer_norm"),
        WeightMapping("heads/mlm/bias", "lm_head.bias", "v -> v"),
        *linear("heads/nsp/pooler", "mpnet.pooler.dense", bias="f"),
    ]
    for part in ("query", "key", "value"):
        mappings += linear(
            f"{path}/attention/{part}", f"{name}.attention.attn.{part[0]}", bert.QUERY, "(n h)"
        )
    return mappings


FAMILY = Family(
    name="mpnet",
    citation="Song et al. 2020, MPNet: Masked and Permuted Pre-training for Language Understanding, NeurIPS",
    base=BASE,
    sizes={"base": BASE},
    rows=rows,
    model_type="mpnet",
    architectures={"MPNetForMaskedLM": ("heads/mlm",), "MPNetModel": ("heads/nsp/pooler",)},
    task_classes=encoder_task_classes("MPNet", "classifier.dense", "classifier.out_proj"),
    fields=(
        *(
            field
            for field in bert.fields(vocab_size=30527)
            if getattr(field, "key", "") not in ("type_vocab_size", "position_embedding_type")
        ),
        # The class has 32 buckets whatever its config says.
        FixedField("relative_attention_num_buckets", (32,)),
        MappedField(
            ("max_position_embeddings", "pad_token_id"), roberta.read_positions, roberta.write_positions
        ),
    ),
    prefix="mpnet.",
    copies={
        "lm_head.decoder.weight": "mpnet.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=(r"embeddings\.position_ids$",),
)
