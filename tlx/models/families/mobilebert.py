"""MobileBERT: deep and narrow, with bottlenecks; size and parameter arithmetic without the network."""

from typing import NamedTuple

from tlx.models.families.family import Outline


class MobileBERTSize(NamedTuple):
    """The dimensions of one model."""

    layers: int = 24
    """Number of layers."""
    width: int = 512
    """Width between layers, D."""
    inner: int = 128
    """Width inside layers, d."""
    hidden: int = 512
    """Width of a feed-forward, f."""
    feedforwards: int = 4
    """Number of feed-forwards in a layer."""
    embedding: int = 128
    """Width of the token embedding, E."""
    vocab: int = 30522
    """Vocabulary size, V."""
    positions: int = 512
    """Number of positions, P."""
    types: int = 2
    """Number of token types."""


def num_params(size: MobileBERTSize) -> int:
    """Count the parameters of the model with its pooler, as in MobileBertModel. Published: 25.3M.

    With D, d, f and E for width, inner, hidden and embedding. Kernels have biases, and each norm has a scale
    and a bias (the norms of MobileBERT use no statistics):

        embeddings    V E + (P + types) D + 3 E D + D + 2 D         three adjacent embeddings, projected to D
        narrowing     2 (D d + d + 2 d)                             for the layer, and for queries and keys
        attention     2 (d d + d) + (D d + d) + (d d + d) + 2 d     values read the wide input
        feed-forward  d f + f + f d + d + 2 d                       each
        widening      d D + D + 2 D
        pooler        D D + D
    """
    wide = size.width
    inner = size.inner
    embeddings = size.vocab * size.embedding + (size.positions + size.types) * wide
    embeddings += 3 * size.embedding * wide + 3 * wide
    narrowing = 2 * (wide * inner + 3 * inner)
    attention = 3 * inner * (inner + 1) + inner * (wide + 1) + 2 * inner
    feedforward = 2 * inner * size.hidden + size.hidden + 3 * inner
    widening = inner * wide + 3 * wide
    layer = narrowing + attention + size.feedforwards * feedforward + widening
    return embeddings + size.layers * layer + wide * (wide + 1)


OUTLINE = Outline(
    name="mobilebert",
    citation="Sun et al. 2020, MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices, ACL",
    sizes={"base": MobileBERTSize()},
    num_params=num_params,
    missing="a layer with several feed-forwards between two bottlenecks, and norms without statistics",
)
