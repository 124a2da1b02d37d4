"""Rows as the base model's frame or an imported tokenizer's own template has them, in place of tlx's (inputs.py).

    encoder            the position whose hidden state represents the row is the first
    two_stream, decoder, bilstm    the last
    encoder_decoder    the decoder reads the encoder's row after its start id, without the last id; the last

These are the positions that the Hugging Face classes with a head read. mBART's is the one before the last, that of
eos.
"""

import dataclasses
from typing import Any

from tlx.base.errors import ConfigError
from tlx.text.frames import Frame, RowFrame
from tlx.text.tokenizer import Tokenizer
from tlx.text.vocabulary import Vocabulary


def frames_of(tokenizer: Tokenizer, num_texts: int) -> tuple[RowFrame, ...]:
    """Return the template of a row of one text, and where `num_texts` is 2 that of two.

    Raises ConfigError where the tokenizer has no template of its own.
    """
    imported: Any = tokenizer
    if not hasattr(imported, "row_frame"):
        raise ConfigError(
            "objective.frame = 'tokenizer': only an imported tokenizer has a template of its own; 'tlx' has the "
            "rows of tlx's own tokenizers"
        )
    return tuple(imported.row_frame(number) for number in range(1, num_texts + 1))


def task_frame(frame: Frame, kind: str, vocab: Vocabulary) -> Frame:
    """Return a base model's frame with the delimiters of a row, where the model was trained without.

    Fine-tuning trains them: sep between texts, and cls at the end, whose hidden state represents the row.

    Args:
        frame: The base model's.
        kind: ModelConfig.kind.
        vocab: The vocabulary.

    Returns:
        The frame of a task's rows.
    """
    sep = (vocab.sep,)
    if kind == "bilstm" and not frame.after:
        # Its documents stand between ends, so that both directions have read one where the text is over.
        return dataclasses.replace(frame, between=frame.start, after=frame.end, place=-1)
    if kind == "encoder" and not frame.before and not frame.after:
        return dataclasses.replace(frame, before=(vocab.cls,), between=sep, after=sep)
    if kind not in ("decoder", "two_stream") or frame.after:
        return frame
    end = (vocab.cls,) if kind == "decoder" else (vocab.sep, vocab.cls)
    return dataclasses.replace(frame, between=sep, after=end, place=-1)


def tlx_frame(kind: str, vocab: Vocabulary, tokenizer: Tokenizer | None = None) -> Frame:
    """Return the frame of tlx's rows, with which tasks were trained before runs kept the frame of their base.

    Args:
        kind: ModelConfig.kind.
        vocab: The vocabulary.
        tokenizer: The run's tokenizer: the template of an imported one is the encoder's of an encoder-decoder.
    """
    sep = (vocab.sep,)
    eos = (vocab.eos,)
    bos = (vocab.bos,)
    if kind == "encoder":
        return Frame(before=(vocab.cls,), between=sep, after=sep, second_type=1)
    if kind == "bilstm":
        return Frame(before=eos, between=eos, after=eos, start=eos, end=eos, place=-1)
    if kind == "two_stream":
        return Frame(
            between=sep, after=(*sep, vocab.cls), start=eos, end=eos, second_type=1, last_type=2, place=-1
        )
    if kind == "encoder_decoder":
        template: Any = getattr(tokenizer, "frame", ((), eos))
        before, after = map(tuple, template)
        return Frame(before=before, between=sep, after=after, start=bos, end=eos, place=-1)
    return Frame(before=bos, start=bos, end=eos, place=-1)
