"""One text or two as a row of a model of each shape, and the place whose hidden state speaks for them.

    encoder            cls A sep [B sep]            the first place (Devlin et al. 2019)
    two_stream         A sep [B sep] cls            the last (Yang et al. 2019)
    decoder            bos A [sep B] cls            the last (Radford et al. 2018: start, delimiter, extract)
    encoder_decoder    A [sep B] eos; bos before it in the decoder: its last place (Lewis et al. 2020)

A trained prompt (prompt tuning) stands before A, in the encoder alone where there are two towers. Texts that
are too long lose tokens from their ends, the longer of two first.
"""

from collections.abc import Sequence

import numpy as np

from tlx.base.errors import ConfigError
from tlx.tasks.shared.base import TaskSpec

KINDS = ("encoder", "decoder", "encoder_decoder", "two_stream")
_FRAME = 4  # special ids of a row of two texts, at most


def input_row(texts: tuple[np.ndarray, ...], spec: TaskSpec) -> dict[str, np.ndarray]:
    """The arrays of a row, [length] each, and `place` []. ConfigError where the row has no room for texts."""
    least, prompt = _FRAME + len(spec.prompt), list(spec.prompt)
    if spec.length <= least:
        raise ConfigError(f"data.sequence_length = {spec.length} must be more than {least} for this task")
    vocab = spec.vocab
    parts = truncated(texts, spec.length - 1 - len(texts) - len(prompt))
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


def truncated(texts: tuple[np.ndarray, ...], room: int) -> list[np.ndarray]:
    """Texts of at most `room` tokens together: the longest (the last of equals) loses one after the other."""
    sizes = [min(len(text), room) for text in texts]
    while sum(sizes) > room:
        longest = max(range(len(sizes)), key=lambda i: (sizes[i], i))
        shorter = max((size for i, size in enumerate(sizes) if i != longest), default=0)
        sizes[longest] -= max(1, min(sum(sizes) - room, sizes[longest] - shorter))
    return [text[:size] for text, size in zip(texts, sizes, strict=True)]


def token_arrays(
    pieces: Sequence, spec: TaskSpec, prefix: str = "", length: int = 0
) -> dict[str, np.ndarray]:
    """The ids of the pieces one behind the other: tokens, positions and segments [length, or the row's]."""
    length = length or spec.length
    ids = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
    return {
        prefix + "tokens": pad_to_length(ids, length, spec.vocab.pad),
        prefix + "positions": pad_to_length(np.arange(len(ids)), length),
        prefix + "segments": pad_to_length(np.ones(len(ids)), length),
    }


def pad_to_length(values: np.ndarray, length: int, pad: int = 0) -> np.ndarray:
    """int32 [length]: the values, then pad."""
    row = np.full(length, pad, np.int32)
    row[: len(values)] = values
    return row


def _last(pieces: list) -> np.ndarray:
    return _scalar(sum(map(len, pieces)) - 1)


def _scalar(value: int) -> np.ndarray:
    return np.array(value, np.int32)
