"""Encoder-decoders with absolute positions: BART, mBART, Marian, Pegasus, Blenderbot and MASS."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.models.config import HeadConfig, ModelConfig
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
    resized,
)
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig
from tlx.text.imported_frame import FrameRules

BART_LARGE = ModelConfig(
    kind="encoder_decoder",
    vocab_size=50265,
    width=1024,
    num_layers=12,
    block_layout="post",
    dropout=0.1,
    embedding=EmbeddingConfig(norm=True),
    position=PositionConfig(kind="learned", max_length=1024, offset=2),
    attention=AttentionConfig(num_heads=16),
    feedforward=FeedForwardConfig(ff_dim=4096, activation="gelu"),
    norm=NormConfig(eps=1e-5),
    head=HeadConfig(tied=True, bias=True),
    init=InitConfig(scale_residual=False),
)
MBART_BASE = resized(BART_LARGE, vocab_size=250027, block_layout="pre", embedding__scale=True)
BLENDERBOT_BASE = resized(
    BART_LARGE,
    vocab_size=8008,
    block_layout="pre",
    width=2560,
    embedding=EmbeddingConfig(scale=True),
    position=PositionConfig(kind="learned", max_length=128),
    attention__num_heads=32,
    feedforward__ff_dim=10240,
    num_layers=2,
    num_decoder_layers=24,
)
# The variant that the first release calls "xlm".
BLENDERBOT_SMALL_BASE = resized(
    BART_LARGE,
    vocab_size=54944,
    width=512,
    num_layers=8,
    embedding=EmbeddingConfig(norm=True, scale=True, decoder_norm="tokens"),
    position=PositionConfig(kind="learned", max_length=512),
    feedforward__ff_dim=2048,
)
# Positions are sinusoids, but Hugging Face stores them as parameters, so that tlx reads a learned table.
PEGASUS_BASE = resized(
    BART_LARGE,
    vocab_size=96103,
    block_layout="pre",
    num_layers=16,
    embedding=EmbeddingConfig(scale=True),
    position=PositionConfig(kind="learned", max_length=1024),
    feedforward__activation="relu",
)
MARIAN_BASE = resized(
    BART_LARGE,
    vocab_size=58101,
    width=512,
    num_layers=6,
    embedding=EmbeddingConfig(scale=True),
    position=PositionConfig(kind="sinusoidal", max_length=512),
    attention__num_heads=8,
    feedforward__ff_dim=2048,
    feedforward__activation="silu",
)
# XLM's network as an encoder-decoder of 6 + 6 layers; the language embeddings are token types.
MASS_BASE = resized(
    BART_LARGE,
    vocab_size=60000,
    num_layers=6,
    attention__num_heads=8,
    embedding=EmbeddingConfig(norm=True, num_types=2),
    position=PositionConfig(kind="learned", max_length=512),
    norm__eps=1e-12,
)


def size(base: ModelConfig, layers: int, width: int, heads: int, hidden: int, **changes: Any) -> ModelConfig:
    """Resize a model; the decoder has as many layers as the encoder unless `changes` say otherwise.

    Args:
        base: The model whose other fields are kept.
        layers: Number of encoder layers.
        width: Model width.
        heads: Number of attention heads.
        hidden: Width of the feed-forward.
        **changes: Other fields, as in `resized`.

    Returns:
        The resized model config.
    """
    return resized(
        base,
        num_layers=layers,
        width=width,
        attention__num_heads=heads,
        feedforward__ff_dim=hidden,
        **changes,
    )


def _attention(path: str, name: str) -> list[WeightMapping]:
    rows = linear(f"{path}/out", f"{name}.out_proj", "d (n h) -> n h d", "d")
    for projection, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        rows += linear(f"{path}/{projection}", f"{name}.{letter}_proj", "(n h) d -> d n h", "(n h)")
    return rows


def stack(side: str, config: ModelConfig) -> list[WeightMapping]:
    """Return the mappings of one stack; `side` is "encoder" or "decoder"."""
    path = f"model/{side}/blocks"
    name = f"model.{side}.layers.{{layer}}"
    rows = [
        *_attention(f"{path}/attention", f"{name}.self_attn"),
        *norm(f"{path}/attention_norm", f"{name}.self_attn_layer_norm"),
        *linear(f"{path}/feedforward/in", f"{name}.fc1", bias="f"),
        *linear(f"{path}/feedforward/out", f"{name}.fc2", bias="f"),
        *norm(f"{path}/feedforward_norm", f"{name}.final_layer_norm"),
    ]
    if side == "decoder":
        rows += _attention(f"{path}/cross_attention", f"{name}.encoder_attn")
        rows += norm(f"{path}/cross_norm", f"{name}.encoder_attn_layer_norm")
    if config.position.kind == "learned":
        rows.append(WeightMapping(f"model/{side}/front/positions", f"model.{side}.embed_positions.weight"))
    if config.embedding.norm:
        rows += norm(f"model/{side}/front/norm", f"model.{side}.layernorm_embedding")
    if config.block_layout == "pre":
        rows += norm(f"model/{side}/final_norm", f"model.{side}.layer_norm")
    return rows


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    mappings = [WeightMapping("model/embedding/table", "model.shared.weight", "v d -> v d")]
    if config.head.bias:
        # A buffer of zeros, which only the class with logits stores.
        mappings.append(WeightMapping("model/output/bias", "final_logits_bias", "1 v -> v", fill=0.0))
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return [*mappings, *stack("encoder", config), *stack("decoder", config)]


def _shape(layers: int, heads: int, hidden: int) -> MappedField:
    """Return the field of the sizes that config.json gives for each stack, with their defaults."""

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        encoder_heads = values.get("encoder_attention_heads", heads)
        decoder_heads = values.get("decoder_attention_heads", heads)
        encoder_ff_dim = values.get("encoder_ffn_dim", hidden)
        decoder_ff_dim = values.get("decoder_ffn_dim", hidden)
        return {
            "num_layers": values.get("encoder_layers", layers),
            "num_decoder_layers": values.get("decoder_layers", layers),
            "attention.num_heads": encoder_heads,
            "num_decoder_heads": 0 if decoder_heads == encoder_heads else decoder_heads,
            "feedforward.ff_dim": encoder_ff_dim,
            "decoder_ff_dim": 0 if decoder_ff_dim == encoder_ff_dim else decoder_ff_dim,
        }

    def write(config: ModelConfig) -> dict[str, Any]:
        values = {"encoder_layers": config.num_layers, "decoder_layers": config.decoder_layers}
        for side in ("encoder", "decoder"):
            block = config.block(side)
            values[f"{side}_attention_heads"] = block.attention.num_heads
            values[f"{side}_ffn_dim"] = block.ff_dim
        return values

    keys = (
        "encoder_layers",
        "encoder_attention_heads",
        "encoder_ffn_dim",
        "decoder_layers",
        "decoder_attention_heads",
        "decoder_ffn_dim",
    )
    return MappedField(keys, read, write)


def _same_vocabulary(values: Mapping[str, Any]) -> dict[str, Any]:
    vocab_size = values.get("vocab_size", 58101)
    decoder_vocab_size = values.get("decoder_vocab_size")
    if decoder_vocab_size not in (None, vocab_size):
        raise ConfigError(
            f"config.json: decoder_vocab_size = {decoder_vocab_size} must be vocab_size = {vocab_size}: "
            "tlx shares the embedding"
        )
    return {}


def fields(config: ModelConfig, scale: bool = False, *more: Any) -> tuple:
    """Return the translation of config.json.

    Args:
        config: A model with the default sizes of the Hugging Face class.
        scale: Default of scale_embedding.
        *more: Fields that only this class has.

    Returns:
        The fields.
    """
    return (
        SameField("vocab_size", "vocab_size", config.vocab_size),
        SameField("d_model", "width", config.width),
        _shape(config.num_layers, config.attention.num_heads, config.block("encoder").ff_dim),
        SameField("max_position_embeddings", "position.max_length", config.position.max_length),
        SameField("activation_function", "feedforward.activation", "gelu", ACTIVATIONS),
        SameField("dropout", "dropout", 0.1),
        SameField("attention_dropout", "attention.dropout", 0.0),
        SameField("activation_dropout", "feedforward.dropout", 0.0),
        SameField("init_std", "init.stddev", 0.02),
        SameField("scale_embedding", "embedding.scale", scale),
        SameField("tie_word_embeddings", "head.tied", True),
        FixedField("is_decoder", (False,)),
        *more,
    )


COPIES = {
    name: "model.shared.weight"
    for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
}


def _family(
    name: str,
    citation: str,
    sizes: dict[str, ModelConfig],
    architecture: str,
    family_fields: tuple,
    heads: bool = False,
    sinusoids: tuple[str, ...] = (),
    frame: FrameRules | None = None,
) -> Family:
    classes = architecture.removesuffix("ForConditionalGeneration").removesuffix("MTModel")
    return Family(
        name=name,
        citation=citation,
        base=next(iter(sizes.values())),
        sizes=sizes,
        rows=rows,
        model_type=name,
        architectures={architecture: (), f"{classes}Model": ()},
        task_classes=_task_classes(classes) if heads else {},
        fields=family_fields,
        prefix="model.",
        copies=COPIES,
        sinusoids=sinusoids,
        frame=frame or FrameRules(),
    )


def _task_classes(classes: str) -> dict[str, TaskClass]:
    """Return the classes with a head, whose decoder reads the encoder's text after its start id.

    mBART's begin with the text's last id, its language, in place of that.
    """
    head = "classification_head"
    return {
        f"{classes}ForSequenceClassification": TaskClass("sequence", f"{head}.out_proj", f"{head}.dense"),
        f"{classes}ForQuestionAnswering": TaskClass("span", "qa_outputs"),
    }


FAMILY = _family(
    "bart",
    "Lewis et al. 2020, BART: Denoising Sequence-to-Sequence Pre-training, ACL",
    {
        "base": size(BART_LARGE, 6, 768, 12, 3072),
        "large": resized(BART_LARGE, vocab_size=50264),
    },
    "BartForConditionalGeneration",
    fields(BART_LARGE),
    heads=True,
    frame=FrameRules(repeats_before=True),
)
MBART = _family(
    "mbart",
    "Liu et al. 2020, Multilingual Denoising Pre-training for Neural Machine Translation, TACL",
    {"cc25": MBART_BASE},
    "MBartForConditionalGeneration",
    fields(resized(MBART_BASE, vocab_size=50265)),
    frame=FrameRules(language_pieces="[a-z]{2,3}_[A-Z]{2}"),  # "ko_KR"
)
PEGASUS = _family(
    "pegasus",
    "Zhang et al. 2020, PEGASUS: Pre-training with Extracted Gap-sentences, ICML",
    {"base": size(PEGASUS_BASE, 12, 768, 12, 3072, position__max_length=512), "large": PEGASUS_BASE},
    "PegasusForConditionalGeneration",
    fields(resized(PEGASUS_BASE, vocab_size=50265, num_layers=12)),
)
BLENDERBOT = _family(
    "blenderbot",
    "Roller et al. 2021, Recipes for Building an Open-Domain Chatbot, EACL",
    {
        "400m": size(BLENDERBOT_BASE, 2, 1280, 32, 5120, num_decoder_layers=12),
        "3b": BLENDERBOT_BASE,
    },
    "BlenderbotForConditionalGeneration",
    fields(BLENDERBOT_BASE),
)
BLENDERBOT_SMALL = _family(
    "blenderbot-small",
    "Roller et al. 2021, Recipes for Building an Open-Domain Chatbot, EACL (90M)",
    {"90m": BLENDERBOT_SMALL_BASE},
    "BlenderbotSmallForConditionalGeneration",
    fields(resized(BLENDERBOT_SMALL_BASE, vocab_size=50265)),
)
MARIAN = _family(
    "marian",
    "Junczys-Dowmunt et al. 2018, Marian: Fast Neural Machine Translation in C++, ACL",
    {"base": MARIAN_BASE, "big": size(MARIAN_BASE, 6, 1024, 16, 4096)},
    "MarianMTModel",
    fields(
        resized(MARIAN_BASE, width=1024, num_layers=12, attention__num_heads=16, feedforward__ff_dim=4096),
        False,
        FixedField("share_encoder_decoder_embeddings", (True,)),
        MappedField(
            ("decoder_vocab_size",),
            _same_vocabulary,
            lambda config: {"decoder_vocab_size": config.vocab_size},
        ),
    ),
    sinusoids=(r"embed_positions\.weight$",),
)
MASS = Family(
    name="mass",
    citation="Song et al. 2019, MASS: Masked Sequence to Sequence Pre-training for Language Generation, ICML",
    base=MASS_BASE,
    sizes={"base": MASS_BASE},
    rows=lambda config: [],  # released only as pickles of its own code
)
