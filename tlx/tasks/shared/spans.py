"""Rows of one piece of text whose every token counts: where the piece is in the row of each kind of model."""

from collections.abc import Sequence

import numpy as np

from tlx.tasks.shared.base import TaskSpec

# Special ids before the first text, by kind, in the row whose hidden states count.
_LEADING = {"encoder": 1, "decoder": 1, "encoder_decoder": 1, "two_stream": 0, "bilstm": 1}


def text_start(texts: Sequence[np.ndarray], number: int, spec: TaskSpec) -> int:
    """Return where a text begins in its row, the decoder's for encoder-decoders.

    Args:
        texts: int32 ids of each text of the row.
        number: Index of the text.
        spec: What examples depend on.

    Returns:
        Position of the text's first id.
    """
    frame = spec.row_frame(len(texts))
    if frame is not None:
        before = frame.ids[: number + 1]
        return len(spec.prompt) + sum(map(len, before)) + sum(len(text) for text in texts[:number])
    prompt = 0 if spec.kind == "encoder_decoder" else len(spec.prompt)
    return _LEADING[spec.kind] + prompt + sum(len(text) + 1 for text in texts[:number])


def max_text_tokens(num_texts: int, spec: TaskSpec) -> int:
    """Return how many ids of so many texts together fit into a row."""
    frame = spec.row_frame(num_texts)
    special = 1 + num_texts if frame is None else frame.num_special
    return spec.length - special - len(spec.prompt)


def windows(size: int, length: int, stride: int) -> list[tuple[int, int]]:
    """Cut a text into overlapping windows.

    Args:
        size: Ids of the text.
        length: Ids of a window.
        stride: Ids from one window to the next.

    Returns:
        (start, stop) of each window; one at least.
    """
    starts = [0]
    while starts[-1] + length < size:
        starts.append(starts[-1] + stride)
    return [(start, min(start + length, size)) for start in starts]
