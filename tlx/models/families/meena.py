"""Meena: an Evolved Transformer for dialogue. Its size and its arithmetic; the network is not here."""

from typing import NamedTuple

from tlx.models.families.family import Outline


class MeenaSize(NamedTuple):
    """The numbers of one model."""

    encoder_blocks: int = 1
    decoder_blocks: int = 13
    width: int = 2560
    heads: int = 32
    vocab: int = 8192


def num_params(size: MeenaSize) -> int:
    """Kernels of the blocks and the one table; biases, norms and depthwise filters (.1%) are left out.

    In units of D^2 (So et al. 2019, figure 3; D = width):

        encoder block   gated linear unit 2; dense to 4 D beside a convolution of 3 to D / 2, 4 + 1.5; a
                        separable one from 4 D to D / 2, 2; attention 4; feed-forward 8            21.5
        decoder block   attention to itself and to the encoder side by side 8; separable convolutions to
                        2 D beside D / 2, 2 + .5; one from 2 D to D, 2; attention to itself 4, to the
                        encoder 4; feed-forward 8                                                  28.5

    1 x 21.5 D^2 + 13 x 28.5 D^2 + 8192 D = 2.59e9 for D = 2560; printed: 2.6B.
    """
    square = size.width**2
    halves = 43 * size.encoder_blocks + 57 * size.decoder_blocks
    return halves * square // 2 + size.vocab * size.width


OUTLINE = Outline(
    name="meena",
    citation="Adiwardana et al. 2020, Towards a Human-like Open-Domain Chatbot, arXiv:2001.09977",
    sizes={"2.6b": MeenaSize()},
    num_params=num_params,
    missing="the Evolved Transformer's gated linear units, separable convolutions and parallel branches",
)
