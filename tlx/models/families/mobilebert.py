"""MobileBERT: BERT's depth through narrow layers. Its size and its arithmetic; the network is not here."""

from typing import NamedTuple

from tlx.models.families.family import Outline


class MobileBERTSize(NamedTuple):
    """The numbers of one model."""

    layers: int = 24
    width: int = 512  # between layers
    inner: int = 128  # inside them
    hidden: int = 512  # of the feed-forwards
    feedforwards: int = 4  # of a layer
    embedding: int = 128
    vocab: int = 30522
    positions: int = 512
    types: int = 2


def num_params(size: MobileBERTSize) -> int:
    """The body with its pooler, as MobileBertModel; heads are left out. Printed: 25.3M.

    With D, d, f and E for width, inner, hidden and embedding; kernels with their biases, and a gain and a
    bias for each norm (MobileBERT's have no statistics):

        embeddings    V E + (P + types) D + 3 E D + D + 2 D         three neighbours are projected to D
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
    feed = 2 * inner * size.hidden + size.hidden + 3 * inner
    widening = inner * wide + 3 * wide
    layer = narrowing + attention + size.feedforwards * feed + widening
    return embeddings + size.layers * layer + wide * (wide + 1)


OUTLINE = Outline(
    name="mobilebert",
    citation="Sun et al. 2020, MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices, ACL",
    sizes={"base": MobileBERTSize()},
    num_params=num_params,
    missing="a layer between two bottlenecks, several feed-forwards in it, and norms without statistics",
)
