"""Parts of objectives of encoder-decoders: the arrays of a row, and the module."""

import jax
import numpy as np
from typing_extensions import override

from tlx.models.transformer import Transformer
from tlx.objectives.shared.arrays import leading_ones, pad_to_length
from tlx.objectives.shared.base import Batch, ObjectiveModule, Predictions
from tlx.text.vocabulary import Vocabulary


def encoder_decoder_arrays(
    source: np.ndarray,
    targets: np.ndarray,
    lengths: tuple[int, int],
    vocab: Vocabulary,
    start: int | None = None,
) -> dict[str, np.ndarray]:
    """Make the arrays of a row whose encoder reads `source` and whose decoder writes `targets`.

    The decoder reads `start` and then the targets but the last (teacher forcing).

    Args:
        source: int32 ids of the encoder; what is longer than its length is cut.
        targets: int32 ids to predict; what is longer than the decoder's length is cut.
        lengths: Lengths of the encoder and of the decoder.
        vocab: The vocabulary, for padding and bos.
        start: First id that the decoder reads; None is bos.

    Returns:
        tokens, positions and segments of both with encoder_ and decoder_ in front; targets and weights of the
        decoder's length. Segments are 1, and 0 on padding.
    """
    encoder_length, decoder_length = lengths
    source = source[:encoder_length]
    targets = targets[:decoder_length]
    decoder = np.full(decoder_length, vocab.pad, np.int32)
    decoder[1 : len(targets)] = targets[:-1]
    # A row without targets stays padding: it gets no start either.
    decoder[: min(len(targets), 1)] = vocab.bos if start is None else start
    return {
        "encoder_tokens": pad_to_length(source, encoder_length, vocab.pad),
        "encoder_positions": np.arange(encoder_length, dtype=np.int32),
        "encoder_segments": leading_ones(len(source), encoder_length),
        "decoder_tokens": decoder,
        "decoder_positions": np.arange(decoder_length, dtype=np.int32),
        "decoder_segments": leading_ones(len(targets), decoder_length),
        "targets": pad_to_length(targets, decoder_length, vocab.pad),
        "weights": leading_ones(len(targets), decoder_length, np.float32),
    }


class EncoderDecoderModule(ObjectiveModule):
    """An encoder-decoder without further heads."""

    def setup(self) -> None:
        """Build the language model."""
        self.lm = Transformer(self.model, name="model")

    @override
    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Return the decoder's hidden states.

        Returns:
            Hidden states [B, T, D] with the unembedding, and None.
        """
        return Predictions(self.lm(batch, keys=keys), self.lm.unembedding()), None
