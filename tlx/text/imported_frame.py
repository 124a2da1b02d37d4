"""The frame of an imported model, as its tokenizer's own template and its config.json say.

Encoders and two streams read the template of one text and of two. A decoder reads what the template puts before a
text, and nothing where it puts nothing. The encoder of an encoder-decoder reads the template; its decoder starts from
decoder_start_token_id. What no template says is in the `FrameRules` of the family.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.text.frames import MARK, TARGET_MARK, Frame
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class FrameRules:
    """What the published models of a family do that their tokenizer's template does not say."""

    repeats_before: bool = False
    """Whether texts that a decoder writes begin with the ids that stand before texts that are read."""
    language_pieces: str = ""
    """Regular expression of the pieces that name a language; "" if none does."""
    language_rows: str = ""
    """Key of config.json with {language: row of the table of language vectors}; "" if there is no such table."""
    language_switch: str = ""
    """Key of config.json that is false where that table is not used."""


def imported_frame(
    tokenizer: Tokenizer,
    kind: str,
    rules: FrameRules | None = None,
    values: Mapping[str, Any] | None = None,
) -> Frame:
    """Return the frame of an imported model.

    Args:
        tokenizer: Its tokenizer.
        kind: ModelConfig.kind.
        rules: Those of its family; None: the family is not known, or needs none.
        values: Contents of its config.json, for the rows of languages; None: not known.

    Returns:
        The frame.
    """
    rules = rules or FrameRules()
    vocab = tokenizer.vocab
    template: Any = getattr(tokenizer, "frame", ((), ()))
    before, after = map(tuple, template)
    eos = _own(tokenizer, vocab.eos)
    if kind == "decoder":
        # What the harness does: its bos, or its eos if it has none of its own.
        context = _own(tokenizer, vocab.bos) or eos or (vocab.bos,)
        return Frame(before=before, after=after, start=before, end=eos, context=context, place=-1)
    if kind == "encoder_decoder":
        return _of_encoder_decoder(tokenizer, before, after, rules)
    frame = Frame(before=before, between=after, after=after)
    if kind == "two_stream":
        frame = dataclasses.replace(frame, start=(vocab.eos,), end=(vocab.eos,), place=-1)
    frame = _with_pairs(tokenizer, frame)
    values = values or {}
    names = values.get(rules.language_rows) if rules.language_rows else None
    if not isinstance(names, Mapping) or not values.get(rules.language_switch, True):
        return frame
    marks = tuple((str(name), int(index)) for name, index in names.items())
    # transformers adds no language vector unless it is given one.
    return dataclasses.replace(frame, mark="language", marks=marks, vectors=True, defaults=("", ""))


def _own(tokenizer: Tokenizer, index: int) -> tuple[int, ...]:
    """Return an id that the model was trained with; () for one that was added to its vocabulary."""
    return (index,) if index < tokenizer.vocab.size - tokenizer.vocab.added else ()


def _of_encoder_decoder(
    tokenizer: Tokenizer, before: tuple[int, ...], after: tuple[int, ...], rules: FrameRules
) -> Frame:
    """Return the frame of an encoder-decoder; with languages where pieces of the tokenizer name them."""
    start = (tokenizer.vocab.bos,)
    begin = before if rules.repeats_before else ()
    frame = Frame(before=before, between=after, after=after, start=start, begin=begin, end=after, place=-1)
    if not rules.language_pieces:
        return frame
    language = re.compile(rules.language_pieces)
    pieces = {tokenizer.piece(index): index for index in range(tokenizer.vocab.size)}
    marks = {name: index for name, index in pieces.items() if language.fullmatch(name)}
    if not marks:
        return frame
    names = {index: name for name, index in marks.items()}
    source = [names[index] for index in (*before, *after) if index in names]
    read = tuple(MARK if index in names else index for index in after)
    if not source:
        read = (*after, MARK)
    written = tuple(TARGET_MARK if index == MARK else index for index in read)
    first = source[0] if source else next(iter(marks))
    target = names.get(start[0], first)
    return dataclasses.replace(
        frame,
        before=tuple(MARK if index in names else index for index in before),
        after=read,
        start=(TARGET_MARK,) if start[0] in names else start,
        end=written,
        place=-2 if read[-1] == MARK else -1,
        mark="language",
        marks=tuple(marks.items()),
        defaults=(first, target),
    )


def _with_pairs(tokenizer: Tokenizer, frame: Frame) -> Frame:
    """Return the frame with what the template of two texts says, where there is one."""
    imported: Any = tokenizer
    if not hasattr(imported, "row_frame"):
        return frame
    try:
        one = imported.row_frame(1)
        row = imported.row_frame(2)
    except ConfigError:
        return frame
    second_type = row.text_types[1]
    gap_types = row.types[1]
    last = one.types[-1][-1:]
    return dataclasses.replace(
        frame,
        between=row.ids[1],
        second_ids=sum(kind == second_type for kind in gap_types) if second_type else 0,
        second_type=second_type,
        last_type=last[0] if last else 0,
    )
