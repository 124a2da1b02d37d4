"""ELECTRA's rows: cls A sep [B sep] with types 0 and 1, of one document.

google-research/electra build_pretraining_dataset.py: sentences of a document are read until they reach the target
length, which is the row's (with probability `short_sequence_fraction` it is uniform in 5..length). With probability
`single_segment_fraction` all of them are A. Otherwise a sentence joins A where A is empty, where A stays below half
of the target, or half of the time where it is the first to exceed that half; all others are B. So a short sentence
may still join A after a long one has begun B, as in the official code. A and B lose tokens from their ends where they
are too long, B first.

What that script writes to disk is cut from the text by index here: rows are neighbouring windows of a document, which
may begin or end inside a sentence, and what a short row leaves is not read again. Sentences (lines there) end as
ObjectiveSpec.ends_sentence says, and anywhere where the tokenizer does not know. eos is left out.
"""

import numpy as np

from tlx.data.window import Window
from tlx.objectives.shared.arrays import text_of
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.objectives.shared.segment_pairs import sentence_ends

_SHORTEST = 5  # target length of the shortest row, cls and sep included


def two_segments(
    rng: np.random.Generator, window: Window, spec: ObjectiveSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Cut A and B from a window.

    Args:
        rng: Random generator of the row.
        window: A piece of one document, [length - 2].
        spec: What examples depend on; the config has `short_sequence_fraction` and `single_segment_fraction`.

    Returns:
        int32 ids of A, at most length - 2, and of B, which is empty where the row has one segment; both are empty
        where the window has no text.
    """
    config = spec.config
    text = text_of(window)
    text = text[text != spec.vocab.eos]
    if len(text) == 0:
        return text, text
    target = spec.length
    if rng.random() < config.short_sequence_fraction:
        target = int(rng.integers(_SHORTEST, spec.length + 1))
    ends = sentence_ends(text, spec)
    ends = ends[: np.searchsorted(ends, target) + 1]
    text = text[: ends[-1]]
    if rng.random() < config.single_segment_fraction:
        return text, text[:0]
    sizes = np.diff(ends, prepend=0)
    in_first = np.repeat(_joins_first(rng, sizes.tolist(), (target - 3) // 2), sizes)
    first = text[in_first]
    return first, text[~in_first][: max(0, spec.length - len(first) - 3)]


def _joins_first(rng: np.random.Generator, sizes: list[int], half: int) -> list[bool]:
    """Return of each sentence, given its size, whether it joins A; `half` is A's target length."""
    joined = []
    length = 0
    second_is_empty = True
    for size in sizes:
        joins = length == 0 or length + size < half
        if not joins and second_is_empty and length < half:
            joins = bool(rng.random() < 0.5)
        joined.append(joins)
        length += size * joins
        second_is_empty &= joins
    return joined
