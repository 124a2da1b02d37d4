"""One text or two as a row of a model of each kind, and the position whose hidden state represents the row.

    encoder            cls A sep [B sep]            the first position (Devlin et al. 2019)
    two_stream         A sep [B sep] cls            the last (Yang et al. 2019)
    decoder            bos A [sep B] cls            the last (Radford et al. 2018: start, delimiter, extract)
    bilstm             eos A [eos B] eos          the last (the documents of its stream; Peters et al. 2018)
    encoder_decoder    A [sep B] eos; bos before it in the decoder: its last position (Lewis et al. 2020)

Rows of a model that was trained in another form have that instead (`spec.frame`), and those of objective.frame =
"tokenizer" an imported tokenizer's own template (frames.py).

A trained prompt (prompt tuning) precedes A, in the encoder alone where there is a decoder too. Texts that
are too long lose tokens from their ends, the longer of two first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError
from tlx.objectives.shared.arrays import leading_ones, pad_to_length
from tlx.tasks.shared.base import Languages, TaskSpec
from tlx.tasks.shared.frames import task_frame, tlx_frame
from tlx.text.frames import Frame, RowFrame

KINDS = ("encoder", "decoder", "encoder_decoder", "two_stream")
ENCODING_KINDS = (*KINDS, "bilstm")
"""Kinds of models whose hidden states can be read by a head; a bilstm has nothing but those."""
_MAX_SPECIAL = 4  # special ids of a row of two texts, at most


def input_row(
    texts: tuple[np.ndarray, ...], spec: TaskSpec, languages: Languages = (None, None)
) -> dict[str, np.ndarray]:
    """Return the arrays of a row.

    Args:
        texts: int32 ids of each text.
        spec: What examples depend on.
        languages: Names that the frame of the base model has for the texts.

    Returns:
        Arrays [length] each, and `place` [].

    Raises:
        ConfigError: Texts have no room, or a name is not one that the model was trained with.
    """
    template = spec.frames[len(texts) - 1] if spec.frames else None
    if spec.frame is not None:
        return _trained_row(texts, spec, spec.frame.named(*languages), template)
    if template is not None:
        return _framed_row(texts, spec, template)
    if spec.kind == "bilstm":
        return _framed_row(texts, spec, tlx_frame(spec.kind, spec.vocab).row(len(texts)))
    prompt = list(spec.prompt)
    least = _MAX_SPECIAL + len(prompt)
    if spec.length <= least:
        raise ConfigError(f"data.sequence_length = {spec.length} must be more than {least} for this task")
    vocab = spec.vocab
    parts = truncate(texts, spec.length - 1 - len(texts) - len(prompt))
    if spec.kind == "encoder":
        pieces = [[vocab.cls, *prompt]] + [piece for part in parts for piece in (part, [vocab.sep])]
        sizes = [1 + len(prompt), *(len(part) + 1 for part in parts)]
        types = np.repeat([0, *range(len(parts))], sizes)
        return {**token_arrays(pieces, spec), "types": pad_to_length(types, spec.length), "place": _scalar(0)}
    if spec.kind == "two_stream":
        pieces = [prompt, *(piece for part in parts for piece in (part, [vocab.sep])), [vocab.cls]]
        sizes = [len(prompt), *(len(part) + 1 for part in parts), 1]
        types = np.repeat([0, *range(len(parts)), 2], sizes)
        return {
            **token_arrays(pieces, spec),
            "types": pad_to_length(types, spec.length),
            "place": _last(pieces),
        }
    between = [piece for part in parts for piece in ([vocab.sep], part)][1:]
    if spec.kind == "decoder":
        pieces = [[vocab.bos, *prompt], *between, [vocab.cls]]
        return {**token_arrays(pieces, spec), "place": _last(pieces)}
    pieces = [*between, [vocab.eos]]
    decoder = [[vocab.bos], *pieces]
    return {
        **token_arrays([prompt, *pieces], spec, "encoder_"),
        **token_arrays(decoder, spec, "decoder_"),
        "place": _last(decoder),
    }


def _trained_row(
    texts: tuple[np.ndarray, ...], spec: TaskSpec, named: Frame, template: RowFrame | None = None
) -> dict[str, np.ndarray]:
    """Return the arrays of a row in the form that the base model was trained with, and `place`.

    A tokenizer's own template says which ids stand around the texts, where it is given.
    """
    frame = task_frame(named, spec.kind, spec.vocab)
    rows = template or frame.row(len(texts))
    arrays = _framed_row(texts, spec, rows, frame.start)
    side = "encoder_" if spec.kind == "encoder_decoder" else ""
    size = int(arrays[side + "segments"].sum())
    arrays["place"] = _scalar(frame.place if frame.place >= 0 else max(size + frame.place, 0))
    if len(texts) < 2 or not (frame.restarts or frame.languages):
        second = size
    else:
        parts = truncate(texts, spec.length - rows.num_special - len(spec.prompt))
        # Where the ids that belong to the second text begin.
        second = len(frame.before) + len(spec.prompt) + len(parts[0]) + len(frame.between) - frame.second_ids
    indices = np.arange(size)
    if frame.restarts:
        positions = np.where(indices < second, indices, indices - second)
        arrays["positions"] = pad_to_length(positions, spec.length)
    # An imported XLM has language vectors only where a column names languages; a row that fills a batch names none.
    if frame.languages or (frame.vectors and getattr(spec.config, "language", "")):
        first, other = frame.languages or (0, 0)
        arrays["langs"] = pad_to_length(np.where(indices < second, first, other), spec.length)
    return arrays


def _framed_row(
    texts: tuple[np.ndarray, ...], spec: TaskSpec, frame: RowFrame, start: tuple[int, ...] = ()
) -> dict[str, np.ndarray]:
    """Return the arrays of a row with these ids around its texts, and `place`; a decoder's `start` () is bos."""
    prompt = list(spec.prompt)
    taken = frame.num_special + len(prompt)
    if spec.length <= taken:
        raise ConfigError(f"data.sequence_length = {spec.length} must be more than {taken} for this task")
    parts = truncate(texts, spec.length - taken)
    pieces: list[Any] = [frame.ids[0], prompt]
    types = [*frame.types[0], *[0] * len(prompt)]
    for number, part in enumerate(parts):
        pieces += [part, frame.ids[number + 1]]
        types += [frame.text_types[number]] * len(part) + [*frame.types[number + 1]]
    if spec.kind != "encoder_decoder":
        place = _scalar(0) if spec.kind == "encoder" else _last(pieces)
        arrays = token_arrays(pieces, spec)
        if spec.kind in ("encoder", "two_stream"):
            arrays["types"] = pad_to_length(np.array(types, np.int32), spec.length)
        return {**arrays, "place": place}
    row = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
    return {
        **token_arrays([row], spec, "encoder_"),
        # The classes shift the row by one: the decoder begins with its start id and never reads the last one.
        **token_arrays([start or [spec.vocab.bos], row[:-1]], spec, "decoder_"),
        "place": _last(pieces),
    }


def truncate(texts: tuple[np.ndarray, ...], room: int) -> list[np.ndarray]:
    """Truncate texts to `room` tokens together; the longest (the last of equals) loses tokens first."""
    sizes = [min(len(text), room) for text in texts]
    while sum(sizes) > room:
        longest = max(range(len(sizes)), key=lambda i: (sizes[i], i))
        shorter = max((size for i, size in enumerate(sizes) if i != longest), default=0)
        sizes[longest] -= max(1, min(sum(sizes) - room, sizes[longest] - shorter))
    return [text[:size] for text, size in zip(texts, sizes, strict=True)]


def token_arrays(
    pieces: Sequence[Any], spec: TaskSpec, prefix: str = "", length: int = 0
) -> dict[str, np.ndarray]:
    """Concatenate ids to the arrays of a row.

    Args:
        pieces: Lists or arrays of ids.
        spec: What examples depend on.
        prefix: "encoder_", "decoder_" or nothing.
        length: Length of the row; 0 is the model's.

    Returns:
        tokens, positions and segments, int32 [length], with the prefix in front of their names; for a bilstm also
        characters [length, W].
    """
    length = length or spec.length
    ids = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
    arrays = {
        prefix + "tokens": pad_to_length(ids, length, spec.vocab.pad),
        prefix + "positions": pad_to_length(np.arange(len(ids)), length),
        prefix + "segments": leading_ones(len(ids), length),
    }
    return arrays | characters_of(arrays[prefix + "tokens"], spec)


def characters_of(tokens: np.ndarray, spec: TaskSpec) -> dict[str, np.ndarray]:
    """Return the array `characters` int32 [length, W] of a row of ids, for models that read characters."""
    return {} if spec.characters is None else {"characters": spec.characters[tokens]}


def _last(pieces: Sequence[Any]) -> np.ndarray:
    # A template may have no special ids, and a text no tokens.
    return _scalar(max(sum(map(len, pieces)) - 1, 0))


def _scalar(value: int) -> np.ndarray:
    return np.array(value, np.int32)
