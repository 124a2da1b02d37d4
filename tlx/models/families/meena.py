"""Meena: an Evolved Transformer for dialogue, and the Evolved Transformer in its published sizes."""

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import Family, WeightMapping, resized
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig

# tensor2tensor's: norms with eps 1e-6, attention without biases, sinusoids, one table of embeddings times sqrt(width)
# for both sides and the output.
BASE = ModelConfig(
    kind="encoder_decoder",
    vocab_size=32_768,
    width=512,
    num_layers=3,
    num_decoder_layers=4,
    block_layout="evolved",
    dropout=0.1,
    embedding=EmbeddingConfig(scale=True),
    position=PositionConfig(kind="sinusoidal"),
    attention=AttentionConfig(num_heads=8, qkv_bias=False, out_bias=False, dropout=0.1),
    feedforward=FeedForwardConfig(activation="relu"),
    norm=NormConfig(eps=1e-6),
    head=HeadConfig(tied=True),
    init=InitConfig(kind="fan_in", embedding_stddev=512**-0.5, scale_residual=False),
)


def size(encoder_cells: int, decoder_cells: int, width: int, heads: int, vocab: int) -> ModelConfig:
    """Resize the base model.

    Args:
        encoder_cells: Number of cells of the encoder.
        decoder_cells: Number of cells of the decoder.
        width: Model width.
        heads: Number of attention heads.
        vocab: Size of the vocabulary.

    Returns:
        The resized model config.
    """
    return resized(
        BASE,
        num_layers=encoder_cells,
        num_decoder_layers=decoder_cells,
        width=width,
        attention__num_heads=heads,
        vocab_size=vocab,
        init__embedding_stddev=width**-0.5,
    )


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return no mappings: no weights were released."""
    return []


FAMILY = Family(
    name="meena",
    citation="Adiwardana et al. 2020, Towards a Human-like Open-Domain Chatbot, arXiv:2001.09977",
    base=BASE,
    sizes={"2.6b": size(1, 13, 2560, 32, 8192)},
    rows=rows,
)

EVOLVED = Family(
    name="evolved-transformer",
    citation="So et al. 2019, The Evolved Transformer, arXiv:1901.11117",
    base=BASE,
    sizes={"base": BASE, "big": size(3, 4, 1024, 16, 32_768)},
    rows=rows,
)
