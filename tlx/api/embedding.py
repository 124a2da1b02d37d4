"""Embedding of texts by a loaded model."""

from collections.abc import Sequence

import numpy as np

from tlx.api.forward import forward_hidden
from tlx.api.text import Marks, TextMixin, as_list, row_arrays
from tlx.base.errors import ConfigError
from tlx.decode.padding import pad
from tlx.models.pooling import pool
from tlx.text.frames import Frame


class EmbeddingMixin(TextMixin):
    """One vector per text."""

    def embed(
        self,
        texts: str | Sequence[str],
        prompt: str | None = None,
        language: str | None = None,
        code: str | None = None,
        mode: str | None = None,
    ) -> np.ndarray:
        """Compute one vector per text.

        It is the mean of the last hidden states over the tokens of the text, or what config.embed says: a
        sentence-transformers directory has its own pooling, limit of tokens and normalisation.

        An encoder-decoder's encoder is used; of two streams the content stream, where every token sees all;
        of a bilstm the mean of all its layers, both directions side by side [N, 2 D].

        Args:
            texts: One text or several.
            prompt: Name of one of the model's prompts (config.embed.prompts), which is put before each text;
                None: config.embed.default_prompt; "": no prompt.
            language: Language of the texts, for a model that was trained with languages.
            code: Control code of the texts, for a model that was trained with codes.
            mode: Mode of the texts, for a model that was trained with modes.

        Returns:
            float32 [N, D], or [D] for one str.

        Raises:
            ConfigError: a text is longer than the model has positions for, or the prompt is unknown.
        """
        config = self.config.embed
        before = config.prompt(config.default_prompt if prompt is None else prompt)
        frame = self._frame_of(Marks(language, None, code, mode))
        rows = [self._embedding_row(before + text, frame) for text in as_list(texts)]
        longest = max(map(len, rows), default=0)
        if self.max_length is not None and longest > self.max_length:
            raise ConfigError(f"a text has {longest} tokens, the model has {self.max_length} positions")
        vocab = self.tokenizer.vocab
        batch = pad(rows, vocab.pad, left=False, limit=self.max_length)
        arrays = batch._asdict() | row_arrays(frame, rows, batch.tokens.shape[1])
        if self._characters is not None:
            arrays["characters"] = self._characters[arrays["tokens"]]
        hidden_BTD = np.asarray(forward_hidden(self.network, self.params["model"], arrays), np.float32)
        position_1T = np.arange(hidden_BTD.shape[1])[None]
        lengths_B1 = np.array([[len(row)] for row in rows])
        counted_BT = position_1T < lengths_B1
        if not config.special_tokens:
            counted_BT = (position_1T >= len(frame.before)) & (position_1T < lengths_B1 - len(frame.after))
        vectors = pool(hidden_BTD, counted_BT, config)
        return vectors[0] if isinstance(texts, str) else vectors

    def num_cut_tokens(self, text: str, prompt: str | None = None) -> int:
        """Return the number of tokens at the end of a text that `embed` leaves out (config.embed.max_tokens).

        Args:
            text: The text.
            prompt: As for `embed`.

        Returns:
            0 where the model reads all of it.
        """
        config = self.config.embed
        if not config.max_tokens:
            return 0
        before = config.prompt(config.default_prompt if prompt is None else prompt)
        return max(
            0, len(self._embedding_tokens(before + text)) - self._embedding_room(self._frame_of(Marks()))
        )

    def _embedding_room(self, frame: Frame) -> int:
        """Tokens of a text that fit into config.embed.max_tokens beside the frame."""
        return max(0, self.config.embed.max_tokens - len(frame.before) - len(frame.after))

    def _embedding_tokens(self, text: str) -> list[int]:
        config = self.config.embed
        text = text.strip() if config.strip else text
        return self._encode(text.lower() if config.lower_case else text)

    def _embedding_row(self, text: str, frame: Frame) -> list[int]:
        tokens = self._embedding_tokens(text)
        if self.config.embed.max_tokens:
            tokens = tokens[: self._embedding_room(frame)]
        return [*frame.before, *tokens, *frame.after]
