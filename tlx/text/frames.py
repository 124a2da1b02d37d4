"""The template of a tokenizer: which special ids it puts around and between texts, and their token types."""

from collections.abc import Sequence
from typing import NamedTuple


class RowFrame(NamedTuple):
    """Special ids of a row of one text or of several, each group with its token types."""

    ids: tuple[tuple[int, ...], ...]
    """Ids before the first text, between the texts and after the last: one group more than texts."""
    types: tuple[tuple[int, ...], ...]
    """Token types of these ids."""
    text_types: tuple[int, ...]
    """Token type of each text."""

    @property
    def num_special(self) -> int:
        """Number of special ids."""
        return sum(map(len, self.ids))


def frame_of_encoding(
    ids: Sequence[int], types: Sequence[int], texts: Sequence[int | None], num_texts: int
) -> RowFrame:
    """Return the frame of an encoded row.

    Args:
        ids: Ids of the row.
        types: Token type of each id.
        texts: Index of the text that each id is from; None for a special id.
        num_texts: Number of texts, each of one id or more.

    Returns:
        The frame.
    """
    groups: list[list[tuple[int, int]]] = [[] for _ in range(num_texts + 1)]
    text_types = [0] * num_texts
    current = 0
    for index, token_type, text in zip(ids, types, texts, strict=True):
        if text is None:
            groups[current].append((index, token_type))
        else:
            current = text + 1
            text_types[text] = token_type
    return RowFrame(
        ids=tuple(tuple(index for index, _ in group) for group in groups),
        types=tuple(tuple(token_type for _, token_type in group) for group in groups),
        text_types=tuple(text_types),
    )
