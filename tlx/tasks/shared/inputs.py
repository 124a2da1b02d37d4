"""One text or two as a row of a model of each kind, and the position whose hidden state represents the row.

    encoder            cls A sep [B sep]            the first position (Devlin et al. 2019)
    two_stream         A sep [B sep] cls            the last (Yang et al. 2019)
    decoder            bos A [sep B] cls            the last (Radford et al. 2018: start, delimiter, extract)
    encoder_decoder    A [sep B] eos; bos before it in the decoder: its last position (Lewis et al. 2020)

With objective.frame = "tokenizer" rows have an imported tokenizer's own template instead (frames.py).

A trained prompt (prompt tuning) precedes A, in the encoder alone where there is a decoder too. Texts that
are too long lose tokens from their ends, the longer of two first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError
from tlx.objectives.shared.arrays import leading_ones, pad_to_length
from tlx.tasks.shared.base import TaskSpec

KINDS = ("encoder", "decoder", "encoder_decoder", "two_stream")
_MAX_SPECIAL = 4  # special ids of a row of two texts, at most


def input_row(texts: tuple[np.ndarray, ...], spec: TaskSpec) -> dict[str, np.ndarray]:
    """Return the arrays of a row, [length] each, and `place` []; ConfigError where texts have no room."""
    if spec.frames:
        return _framed_row(texts, spec)
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


def _framed_row(texts: tuple[np.ndarray, ...], spec: TaskSpec) -> dict[str, np.ndarray]:
    """Return the arrays of a row in the tokenizer's own template, and `place`."""
    frame = spec.frames[len(texts) - 1]
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
        if spec.kind != "decoder":
            arrays["types"] = pad_to_length(np.array(types, np.int32), spec.length)
        return {**arrays, "place": place}
    row = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
    return {
        **token_arrays([row], spec, "encoder_"),
        # The classes shift the row by one: the decoder begins with its start id and never reads the last one.
        **token_arrays([[spec.vocab.bos], row[:-1]], spec, "decoder_"),
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
        tokens, positions and segments, int32 [length], with the prefix in front of their names.
    """
    length = length or spec.length
    ids = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
    return {
        prefix + "tokens": pad_to_length(ids, length, spec.vocab.pad),
        prefix + "positions": pad_to_length(np.arange(len(ids)), length),
        prefix + "segments": leading_ones(len(ids), length),
    }


def _last(pieces: Sequence[Any]) -> np.ndarray:
    # A template may have no special ids, and a text no tokens.
    return _scalar(max(sum(map(len, pieces)) - 1, 0))


def _scalar(value: int) -> np.ndarray:
    return np.array(value, np.int32)
