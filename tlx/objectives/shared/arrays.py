"""Arrays of one row: the text of a window, padding, and sparse targets."""

import numpy as np

from tlx.data.window import Window


def text_of(window: Window) -> np.ndarray:
    """Return the tokens of a window without its padding, a view."""
    return window.tokens[: np.count_nonzero(window.segments)]


def pad_to_length(values: np.ndarray, length: int, pad: int = 0) -> np.ndarray:
    """Return int32 values padded at their end.

    Args:
        values: Integers [n], n <= length.
        length: Length of the result.
        pad: What fills it up.

    Returns:
        int32 [length].
    """
    # Half the time of np.full.
    row = np.empty(length, np.int32)
    row[: len(values)] = values
    row[len(values) :] = pad
    return row


def leading_ones(count: int, length: int, dtype: type = np.int32) -> np.ndarray:
    """Return ones followed by zeros: segments or weights of a padded row.

    Args:
        count: Number of ones.
        length: Length of the result.
        dtype: Its dtype.

    Returns:
        Array [length].
    """
    row = np.zeros(length, dtype)
    row[:count] = 1
    return row


def with_targets(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a row whose `targets` stand in `tokens` again, at `target_positions`."""
    real = row["weights"] > 0
    tokens = row["tokens"].copy()
    tokens[row["target_positions"][real]] = row["targets"][real]
    return {**row, "tokens": tokens}


def sparse_targets(tokens: np.ndarray, positions: np.ndarray, size: int, pad: int) -> dict[str, np.ndarray]:
    """Return the targets of some positions of a row, padded with weight 0.

    Args:
        tokens: int32 [T], the row before anything is hidden.
        positions: int [n], n <= size, the positions to predict.
        size: P, the most targets of a row.
        pad: Id of the padding token.

    Returns:
        `target_positions` and `targets` int32 [P], `weights` float32 [P].
    """
    return {
        "target_positions": pad_to_length(positions, size),
        "targets": pad_to_length(tokens[positions], size, pad),
        "weights": leading_ones(len(positions), size, np.float32),
    }
