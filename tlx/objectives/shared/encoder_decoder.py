"""What objectives of two towers share: the arrays of a row, and the module."""

import jax
import numpy as np

from tlx.models.transformer import Transformer
from tlx.objectives.shared.base import Batch, ObjectiveModule, Predictions
from tlx.text.vocabulary import Vocabulary


def encoder_decoder_arrays(
    source: np.ndarray,
    targets: np.ndarray,
    lengths: tuple[int, int],
    vocab: Vocabulary,
    start: int | None = None,
) -> dict[str, np.ndarray]:
    """Arrays of a row whose encoder reads `source` and whose decoder writes `targets`, padded.

    `lengths` are those of the encoder and the decoder; what is longer is cut. The decoder reads `start`
    (bos, unless given) and then the targets but the last.
    """
    source, targets = source[: lengths[0]], targets[: lengths[1]]
    decoder = np.full(lengths[1], vocab.pad, np.int32)
    decoder[1 : len(targets)] = targets[:-1]
    decoder[: min(len(targets), 1)] = vocab.bos if start is None else start
    return {
        "encoder_tokens": pad_to_length(source, lengths[0], vocab.pad),
        "encoder_positions": np.arange(lengths[0], dtype=np.int32),
        "encoder_segments": ones(len(source), lengths[0]),
        "decoder_tokens": decoder,
        "decoder_positions": np.arange(lengths[1], dtype=np.int32),
        "decoder_segments": ones(len(targets), lengths[1]),
        "targets": pad_to_length(targets, lengths[1], vocab.pad),
        "weights": ones(len(targets), lengths[1], np.float32),
    }


def pad_to_length(values: np.ndarray, length: int, pad: int) -> np.ndarray:
    """int32 [length]: the values, then pad."""
    row = np.full(length, pad, np.int32)
    row[: len(values)] = values
    return row


def ones(count: int, length: int, dtype: type = np.int32) -> np.ndarray:
    """[length]: `count` ones, then zeros."""
    row = np.zeros(length, dtype)
    row[:count] = 1
    return row


class EncoderDecoderModule(ObjectiveModule):
    """An encoder-decoder."""

    def setup(self):
        self.lm = Transformer(self.model, name="model")

    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """The decoder's hidden states [B, T, D]."""
        return Predictions(self.lm(batch, keys=keys), self.lm.unembedding()), None
