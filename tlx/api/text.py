"""Text to token ids and back for a loaded model: prompts, gaps and special tokens written by name."""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tlx.api.core import ModelCore
from tlx.base.errors import ConfigError
from tlx.run.config import get_objective
from tlx.text import Tokenizer
from tlx.text.frames import Frame

PLACEHOLDERS = ("[MASK]", "<mask>")


class Marks(NamedTuple):
    """Names that a caller gives of a text: of its language, control code or mode."""

    language: str | None = None
    """Language of the text that is read."""
    target_language: str | None = None
    """Language of the text that is written; None: the same."""
    code: str | None = None
    """Control code."""
    mode: str | None = None
    """Mode of a denoiser."""


UNMARKED = Marks()


class TextMixin(ModelCore):
    """Encoding of prompts and decoding of answers, shared by generation, scoring and embedding."""

    @functools.cached_property
    def _fills_gaps(self) -> bool:
        """Whether the model was trained to fill sentinels, such as "<extra_id_0>", in its source."""
        return get_objective(self.config).fills_gaps and self.tokenizer.vocab.num_sentinels > 0

    @functools.cached_property
    def _mask_pieces(self) -> dict[str, int]:
        return dict.fromkeys(PLACEHOLDERS, self.tokenizer.vocab.mask)

    @functools.cached_property
    def _special_pieces(self) -> dict[str, int]:
        """{text: special id} of sentinels and masks, which only an encoder-decoder reads by name."""
        vocab = self.tokenizer.vocab
        if self.kind != "encoder_decoder":
            return {}
        sentinels = [vocab.sentinel(index) for index in range(vocab.num_sentinels)]
        return {self.tokenizer.piece(token): token for token in sentinels} | self._mask_pieces

    def _frame_of(self, marks: Marks, prompt: str | None = None) -> Frame:
        """Return the frame of a text with the marks that a caller names.

        Args:
            marks: The names.
            prompt: The text that a model with modes is to read, which decides the mode if none is named: "R" for
                one with gaps, and "S" for one that is to be continued.

        Returns:
            The frame, in which no name is open.

        Raises:
            ConfigError: A name is not one that the model was trained with, or it was trained without such names.
        """
        frame = self.frame
        for field in ("language", "target_language", "code", "mode"):
            value = getattr(marks, field)
            if value is not None and field.removeprefix("target_") != frame.mark:
                other = f"with a {frame.mark} ({', '.join(dict(frame.marks))})" if frame.mark else "without"
                raise ConfigError(f"{field} = {value!r}: this model was trained {other}; leave {field} out")
        if frame.mark != "mode":
            name = marks.code if frame.mark == "code" else marks.language
            return frame.named(name, marks.target_language)
        names = dict(frame.marks)
        mode = marks.mode
        if mode is None and prompt is not None and not self._keeps_special(prompt) and "S" in names:
            mode = "S"
        return frame.named(mode)

    def _encode(self, text: str) -> list[int]:
        return encode_with_specials(self.tokenizer, text, self._special_pieces)

    def _count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, without those of names of special ids that `_encode` finds in it."""
        parts = split_at_names(text, self._special_pieces)
        return sum(self.tokenizer.count_bytes(part) for part in parts if part not in self._special_pieces)

    def _encode_source(self, prompt: str, marks: Marks = UNMARKED) -> list[int]:
        """Return the encoder's input ids; a gap-filling model gets a gap after a prompt without one."""
        tokens = self._encode(prompt)
        if self._appends_gap(prompt, marks):
            tokens.append(self.tokenizer.vocab.sentinel(0))
        frame = self._frame_of(marks, prompt)
        return [*frame.before, *tokens, *frame.after]

    def _appends_gap(self, prompt: str, marks: Marks) -> bool:
        """Return whether a prompt gets a gap at its end, whose content is then its continuation."""
        if not self._fills_gaps or self._keeps_special(prompt):
            return False
        if self.frame.mark != "mode":
            return True
        # The mode "S" writes the rest of a text without a gap.
        return marks.mode != "S" and (marks.mode is not None or "S" not in dict(self.frame.marks))

    def _has_sentinel(self, tokens: Sequence[int]) -> bool:
        vocab = self.tokenizer.vocab
        return any(vocab.is_sentinel(token) for token in tokens)

    def _keeps_special(self, prompt: str) -> bool:
        """Return whether the answer to `prompt` shows special tokens by name."""
        return self._has_sentinel(self._encode(prompt))

    def _decode_answer(self, prompt: str, tokens: list[int], marks: Marks = UNMARKED) -> str:
        if self._keeps_special(prompt):
            return self.tokenizer.decode(tokens, keep_special=True)
        if self._appends_gap(prompt, marks):
            # The answer is the text of the gap appended to the prompt: it ends at the second sentinel.
            second = self.tokenizer.vocab.sentinel(1)
            tokens = tokens[: tokens.index(second)] if second in tokens else tokens
        return self.tokenizer.decode(tokens)

    def _decoder_prompt(self, text: str, marks: Marks) -> list[int]:
        """Return the ids that a decoder continues; never none."""
        frame = self._frame_of(marks)
        return [*frame.prompt, *self._encode(text), *frame.cue] or list(frame.context)


def row_arrays(frame: Frame, rows: Sequence[Sequence[int]], width: int) -> dict[str, np.ndarray]:
    """Return the types and languages of rows of one text each, where the model was trained with them.

    Args:
        frame: The frame of the texts.
        rows: Ids of each row, special ids included.
        width: Length of the arrays.

    Returns:
        "types" and "langs", int32 [B, width]; of these only what the frame has.
    """
    arrays = {}
    if frame.last_type:
        arrays["types"] = np.zeros((len(rows), width), np.int32)
        for number, row in enumerate(rows):
            arrays["types"][number, len(row) - 1] = frame.last_type
    if frame.languages:
        arrays["langs"] = np.full((len(rows), width), frame.languages[0], np.int32)
    return arrays


def encode_with_specials(tokenizer: Tokenizer, text: str, specials: dict[str, int]) -> list[int]:
    """Encode `text`, replacing each special piece that stands in it by its id.

    Args:
        tokenizer: Encodes the text between special pieces.
        text: The text, in which special pieces are written out.
        specials: {special piece: token id}.

    Returns:
        Token ids.
    """
    tokens: list[int] = []
    for part in split_at_names(text, specials):
        tokens += [specials[part]] if part in specials else tokenizer.encode(part)
    return tokens


def split_at_names(text: str, names: Iterable[str]) -> list[str]:
    """Split a text before and after each of `names` that stands in it; without names it stays whole."""
    pattern = "|".join(map(re.escape, names))
    return re.split(f"({pattern})", text) if pattern else [text]


def as_list(texts: str | Sequence[str]) -> list[str]:
    """Return a list of texts, of one element for a str."""
    return [texts] if isinstance(texts, str) else list(texts)
