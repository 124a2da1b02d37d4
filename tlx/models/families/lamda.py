"""LaMDA: a decoder with T5's relative position bias and a gated GELU, in the published size."""

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import Family, WeightMapping, resized
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig

# Parameters of the 137B: 64 layers of 4 d (128 x 128) for attention and 3 d f for the gated feed-forward,
# 64 (4 x 8192 x 16384 + 3 x 8192 x 65536) = 137.4e9, and 32000 x 8192 = .26e9 for the embedding.
BASE = ModelConfig(
    kind="decoder",
    vocab_size=32000,
    width=8192,
    num_layers=64,
    block_layout="pre",
    position=PositionConfig(kind="relative_bias"),
    attention=AttentionConfig(num_heads=128, head_dim=128, qkv_bias=False, out_bias=False),
    feedforward=FeedForwardConfig(ff_dim=65536, activation="gelu_tanh", gated=True, bias=False),
    norm=NormConfig(kind="rmsnorm", eps=1e-6),
    head=HeadConfig(tied=True),
    init=InitConfig(scale_residual=False),
)


def size(layers: int, width: int, heads: int, head_dim: int, hidden: int) -> ModelConfig:
    """Resize the base model.

    Args:
        layers: Number of layers.
        width: Model width.
        heads: Number of attention heads.
        head_dim: Size of an attention head.
        hidden: Width of the feed-forward.

    Returns:
        The resized model config.
    """
    return resized(
        BASE,
        num_layers=layers,
        width=width,
        attention__num_heads=heads,
        attention__head_dim=head_dim,
        feedforward__ff_dim=hidden,
    )


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return no mappings: no weights were released."""
    return []


FAMILY = Family(
    name="lamda",
    citation="Thoppilan et al. 2022, LaMDA: Language Models for Dialog Applications, arXiv:2201.08239",
    base=BASE,
    sizes={"137b": BASE},
    rows=rows,
)
