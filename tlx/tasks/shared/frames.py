"""Rows as an imported tokenizer's own template frames them, in place of tlx's rows (inputs.py).

    encoder            the position whose hidden state represents the row is the first
    two_stream, decoder    the last
    encoder_decoder    the decoder reads the encoder's row after its start id, without the last id; the last

These are the positions that the Hugging Face classes with a head read.
"""

from typing import Any

from tlx.base.errors import ConfigError
from tlx.text.frames import RowFrame
from tlx.text.tokenizer import Tokenizer


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
