"""Rows of one piece of text whose every place counts: where the piece stands in the row of each shape."""

from collections.abc import Sequence

import numpy as np

from tlx.tasks.shared.base import TaskSpec

# Special ids around texts, by shape: before the first one in the row whose hidden states count.
_BEFORE = {"encoder": 1, "decoder": 1, "encoder_decoder": 1, "two_stream": 0}


def begin_of(texts: Sequence[np.ndarray], number: int, spec: TaskSpec) -> int:
    """Place of the first id of text `number`, in the decoder's row where there are two towers."""
    prompt = 0 if spec.kind == "encoder_decoder" else len(spec.prompt)
    return _BEFORE[spec.kind] + prompt + sum(len(text) + 1 for text in texts[:number])


def room_for(texts: int, spec: TaskSpec) -> int:
    """Ids of so many texts together that fit a row."""
    return spec.length - 1 - texts - len(spec.prompt)


def windows(size: int, length: int, stride: int) -> list[tuple[int, int]]:
    """(start, stop) of windows of `length` over `size` ids, `stride` ids from one to the next."""
    starts = [0]
    while starts[-1] + length < size:
        starts.append(starts[-1] + stride)
    return [(start, min(start + length, size)) for start in starts]
