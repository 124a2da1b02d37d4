"""Text to token ids and back for a loaded model: prompts, gaps and special tokens written by name."""

import functools
import re
from collections.abc import Iterable, Sequence

from tlx.api.core import ModelCore
from tlx.run.config import get_objective
from tlx.text import Tokenizer

PLACEHOLDERS = ("[MASK]", "<mask>")


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

    def _encode(self, text: str) -> list[int]:
        return encode_with_specials(self.tokenizer, text, self._special_pieces)

    def _count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, without those of names of special ids that `_encode` finds in it."""
        parts = split_at_names(text, self._special_pieces)
        return sum(self.tokenizer.count_bytes(part) for part in parts if part not in self._special_pieces)

    def _encode_source(self, prompt: str) -> list[int]:
        """Return the encoder's input ids; a gap-filling model gets a gap after a prompt without one."""
        vocab = self.tokenizer.vocab
        tokens = self._encode(prompt)
        if self._fills_gaps and not self._has_sentinel(tokens):
            tokens.append(vocab.sentinel(0))
        prefix, suffix = getattr(self.tokenizer, "frame", ((), (vocab.eos,)))
        return [*prefix, *tokens, *suffix]

    def _has_sentinel(self, tokens: Sequence[int]) -> bool:
        vocab = self.tokenizer.vocab
        return any(vocab.is_sentinel(token) for token in tokens)

    def _keeps_special(self, prompt: str) -> bool:
        """Return whether the answer to `prompt` shows special tokens by name."""
        return self._has_sentinel(self._encode(prompt))

    def _decode_answer(self, prompt: str, tokens: list[int]) -> str:
        if self._keeps_special(prompt):
            return self.tokenizer.decode(tokens, keep_special=True)
        if self._fills_gaps:
            # The answer is the text of the gap appended to the prompt: it ends at the second sentinel.
            second = self.tokenizer.vocab.sentinel(1)
            tokens = tokens[: tokens.index(second)] if second in tokens else tokens
        return self.tokenizer.decode(tokens)


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
