"""Transformer-XL: relative positions, segment memory (objective recurrent_lm) and adaptive softmax.

Number of parameters, with d = width, f = ff_dim and a vocabulary in clusters of n_i ids and widths d_i:

    layers      L (5 d^2 + 2 d f + f + 5 d + 2 d)       q, k, v, out and distances; f and d biases; two norms;
                                                        u and v
    tables      sum n_i d_i
    projections d sum d_i + d^2                         where the widths differ: of the input, which the
                                                        output shares except for the first
    output      267735 + 3 d + 3                        biases, and the entries of the clusters

base: 16 x 2,567,470 + 109,771,350 + 268,968 = 151,119,838. Published: 151M; the paper's PyTorch code shares
u and v over the layers: 12,300 fewer.
large: 18 x 13,642,752 + 36,923,760 + 2,441,216 + 270,810 = 285,205,322. The paper prints 257M, which
differs from its released scripts for that model (wt103_large, 18 layers); with 16 layers it would be 257.9M.
"""

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import Family, WeightMapping, resized
from tlx.nn.config import AttentionConfig, FeedForwardConfig, InitConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig

BASE = ModelConfig(
    kind="decoder",
    vocab_size=267735,  # WikiText-103's words by frequency
    width=410,
    num_layers=16,
    block_layout="post",
    dropout=0.1,
    embedding=EmbeddingConfig(scale=True, cutoffs=(20000, 40000, 200000)),
    position=PositionConfig(kind="relative_sinusoidal"),
    attention=AttentionConfig(num_heads=10, qkv_bias=False, out_bias=False),
    feedforward=FeedForwardConfig(ff_dim=2100, activation="relu", dropout=0.1),
    norm=NormConfig(eps=1e-5),
    head=HeadConfig(tied=True, bias=True),
    init=InitConfig(scale_residual=False),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return no mappings: its class is no longer in transformers."""
    return []


FAMILY = Family(
    name="transformer-xl",
    citation="Dai et al. 2019, Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context, ACL",
    base=BASE,
    sizes={
        "base": BASE,
        "large": resized(
            BASE,
            num_layers=18,
            width=1024,
            dropout=0.2,
            embedding__divisor=4,
            attention__num_heads=16,
            attention__dropout=0.2,
            feedforward__ff_dim=4096,
            feedforward__dropout=0.2,
        ),
    },
    rows=rows,
)
