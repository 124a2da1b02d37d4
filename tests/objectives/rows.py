"""Windows of given tokens, and what stands in the rows made of them."""

import numpy as np

from tlx.data.window import Window


def window(tokens, length: int | None = None, language: int = 0, second: Window | None = None) -> Window:
    """One document of these tokens, padded to `length`."""
    length = len(tokens) if length is None else length
    padded, segments, positions = np.zeros((3, length), np.int32)
    padded[: len(tokens)] = tokens
    segments[: len(tokens)] = 1
    positions[: len(tokens)] = np.arange(len(tokens))
    return Window(padded, segments, positions, second, language)


def encoder(row: dict[str, np.ndarray]) -> list[int]:
    """What the encoder reads, without padding."""
    return row["encoder_tokens"][row["encoder_segments"] > 0].tolist()


def decoder(row: dict[str, np.ndarray]) -> list[int]:
    """What the decoder reads, without padding."""
    return row["decoder_tokens"][row["decoder_segments"] > 0].tolist()


def targets(row: dict[str, np.ndarray]) -> list[int]:
    """What the decoder writes."""
    return row["targets"][row["weights"] > 0].tolist()
