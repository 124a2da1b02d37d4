"""The size at which `tlx bench` measures. Imports no jax: the command's --help reads it."""

from typing import NamedTuple


class BenchShape(NamedTuple):
    """Sizes of a model and of its batch."""

    width: int
    """Model width D."""
    layers: int
    """Number of layers; of the encoder and of the decoder each in an encoder-decoder."""
    length: int
    """Tokens in a row."""
    batch: int
    """Rows in a batch."""
    vocab: int
    """Vocabulary size."""


# Flag of `tlx bench` -> its help text.
FIELDS = {
    "width": "model width",
    "layers": "number of layers (of encoder and decoder each in an encoder-decoder)",
    "length": "tokens in a row",
    "batch": "rows in a batch",
    "vocab": "vocabulary size",
}
