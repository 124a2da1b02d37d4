"""Frames: which special ids stand around and between texts, with their types, languages and positions.

A `Frame` is the form of the texts that a model was trained with. It belongs to the objective that trained the
model, or to the tokenizer of an imported one; whatever reads or writes a text with the model takes it from there.
A `RowFrame` is the part of it that a row of one text, or of two, needs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tlx.base.errors import ConfigError, one_of

# Stand in a frame for the id of a name of `Frame.marks`: of the text that is read, and of the one that is written.
MARK = -1
TARGET_MARK = -2


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


@dataclasses.dataclass(frozen=True)
class Frame:
    """The form of the texts that a model was trained with.

        a text that is read whole       before A after; of two texts: before A between B after
        a text that is written          start begin TEXT end, of which all after `start` is predicted

    The first is the row of an encoder, of two streams and of a task, and the encoder's of an encoder-decoder; the
    second is the row of a decoder, the decoder's of an encoder-decoder, and a text that two streams continue.
    """

    before: tuple[int, ...] = ()
    """Ids before a text that is read whole."""
    between: tuple[int, ...] = ()
    """Ids between two texts of a row."""
    after: tuple[int, ...] = ()
    """Ids after the last text of a row."""
    start: tuple[int, ...] = ()
    """Ids before a text that is written, which are not predicted; () where a text stands alone."""
    begin: tuple[int, ...] = ()
    """Ids with which every written text begins; they are predicted, and no part of an answer."""
    end: tuple[int, ...] = ()
    """Ids with which every written text ends."""
    cue: tuple[int, ...] = ()
    """Ids between a prompt and its answer, where a decoder was trained to answer and not to continue."""
    context: tuple[int, ...] = ()
    """Ids from which the first token of a text is predicted where `start` and the prompt are empty."""
    second_type: int = 0
    """Type of the second text and of what follows it; 0 where types were not trained."""
    last_type: int = 0
    """Type of the last of the ids after a text."""
    second_ids: int = 0
    """Number of the ids of `between` that belong to the second text."""
    restarts: bool = False
    """Whether positions begin again at the second text."""
    place: int = 0
    """Position whose hidden state represents a row that is read whole; negative counts from its end."""
    mark: Literal["", "language", "code", "mode"] = ""
    """Meaning of the names in `marks`; "" is none."""
    marks: tuple[tuple[str, int], ...] = ()
    """Names with their ids; MARK and TARGET_MARK in the other fields stand for such an id."""
    defaults: tuple[str, ...] = ()
    """Names of the text that is read and of the one that is written where none is chosen; () is the first of `marks`
    for both, and "" is none, where `vectors` is True."""
    vectors: bool = False
    """Whether the ids of `marks` are rows of the table of language vectors, and not token ids."""
    languages: tuple[int, ...] = ()
    """Rows of the table of language vectors of the first and of the second text; () where `vectors` is False or no
    name has been chosen."""

    def named(self, name: str | None = None, target: str | None = None) -> "Frame":
        """Return the frame of texts with a mark, in which no name is open.

        Args:
            name: Name of the text that is read, one of `marks`; None: the default.
            target: Name of the text that is written, or of a row's second text; None: `name`, and the default where
                that is None too.

        Returns:
            The frame.

        Raises:
            ConfigError: A name is not among the legal ones.
        """
        if not self.marks:
            return self
        read, written = self.defaults or (self.marks[0][0],) * 2
        if name is None and target is None and self.vectors and not read:
            return self
        if name is None:
            name = read
            target = written if target is None else target
        first = self._id(name, self.mark)
        second = first if target is None else self._id(target, f"target_{self.mark}")
        ids = {MARK: first, TARGET_MARK: second}

        def filled(values: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(ids.get(value, value) for value in values)

        return dataclasses.replace(
            self,
            before=filled(self.before),
            between=filled(self.between),
            after=filled(self.after),
            start=filled(self.start),
            begin=filled(self.begin),
            end=filled(self.end),
            cue=filled(self.cue),
            languages=(first, second) if self.vectors else (),
        )

    def _id(self, name: str, argument: str) -> int:
        ids = dict(self.marks)
        if name not in ids:
            raise ConfigError(one_of(argument, name, ids))
        return ids[name]

    @property
    def prompt(self) -> tuple[int, ...]:
        """Ids before the first id of an answer; () where a text stands alone."""
        return self.start + self.begin

    @property
    def first(self) -> tuple[int, ...]:
        """Ids from which the first token of a text is predicted; never ()."""
        return self.prompt + self.cue or self.context

    def row(self, num_texts: int) -> RowFrame:
        """Return the part of the frame that a row of so many texts needs, for one text or more."""
        gaps = (self.between,) * (num_texts - 1)
        types = [(0,) * len(self.before)]
        for number in range(num_texts - 1):
            own = len(self.between) - self.second_ids
            types.append((self.second_type * min(number, 1),) * own + (self.second_type,) * self.second_ids)
        last = self.second_type if num_texts > 1 else 0
        types.append(
            (last,) * max(len(self.after) - 1, 0) + ((self.last_type or last,) if self.after else ())
        )
        text_types = (0,) + (self.second_type,) * (num_texts - 1)
        return RowFrame((self.before, *gaps, self.after), tuple(types), text_types)
