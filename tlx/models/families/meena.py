"""Meena: an Evolved Transformer for dialogue; size and parameter arithmetic without the network."""

from typing import NamedTuple

from tlx.models.families.family import Outline


class MeenaSize(NamedTuple):
    """The dimensions of one model."""

    encoder_blocks: int = 1
    """Number of encoder blocks."""
    decoder_blocks: int = 13
    """Number of decoder blocks."""
    width: int = 2560
    """Model width D."""
    heads: int = 32
    """Number of attention heads."""
    vocab: int = 8192
    """Vocabulary size."""


def num_params(size: MeenaSize) -> int:
    """Count the kernels of the blocks and the embedding; biases, norms and depthwise filters (.1%) are omitted.

    In units of D^2 (So et al. 2019, figure 3; D = width):

        encoder block   gated linear unit 2; dense to 4 D beside a convolution of 3 to D / 2, 4 + 1.5; a
                        separable one from 4 D to D / 2, 2; attention 4; feed-forward 8            21.5
        decoder block   self- and cross-attention in parallel 8; separable convolutions to
                        2 D beside D / 2, 2 + .5; one from 2 D to D, 2; self-attention 4,
                        cross-attention 4; feed-forward 8                                          28.5

    1 x 21.5 D^2 + 13 x 28.5 D^2 + 8192 D = 2.59e9 for D = 2560; published: 2.6B.
    """
    square = size.width**2
    half_squares = 43 * size.encoder_blocks + 57 * size.decoder_blocks
    return half_squares * square // 2 + size.vocab * size.width


OUTLINE = Outline(
    name="meena",
    citation="Adiwardana et al. 2020, Towards a Human-like Open-Domain Chatbot, arXiv:2001.09977",
    sizes={"2.6b": MeenaSize()},
    num_params=num_params,
    missing="the Evolved Transformer's gated linear units, separable convolutions and parallel branches",
)
