"""Embedding of texts by a loaded model."""

from collections.abc import Sequence

import numpy as np

from tlx.api.forward import forward_hidden
from tlx.api.text import TextMixin, as_list
from tlx.base.errors import ConfigError
from tlx.decode.padding import pad


class EmbeddingMixin(TextMixin):
    """One vector per text."""

    def embed(self, texts: str | Sequence[str]) -> np.ndarray:
        """Average the last hidden states over the tokens of each text.

        An encoder-decoder's encoder is used; of two streams the content stream, where every token sees all;
        of a bilstm the mean of all its layers, both directions side by side [N, 2 D].

        Args:
            texts: One text or several.

        Returns:
            float32 [N, D], or [D] for one str.

        Raises:
            ConfigError: a text is longer than the model has positions for.
        """
        vocab = self.tokenizer.vocab
        frames = {"encoder": ([vocab.cls], [vocab.sep]), "encoder_decoder": ([], [vocab.eos])}
        prefix, suffix = frames.get(self.kind, ([vocab.bos], []))
        rows = [[*prefix, *self._encode(text), *suffix] for text in as_list(texts)]
        longest = max(map(len, rows), default=0)
        if self.max_length is not None and longest > self.max_length:
            raise ConfigError(f"a text has {longest} tokens, the model has {self.max_length} positions")
        batch = pad(rows, vocab.pad, left=False, limit=self.max_length)
        arrays = batch._asdict()
        if self._characters is not None:
            arrays["characters"] = self._characters[arrays["tokens"]]
        hidden_BTD = np.asarray(forward_hidden(self.network, self.params["model"], arrays), np.float32)
        # Special tokens around the text are left out of the mean.
        position_1T = np.arange(hidden_BTD.shape[1])[None]
        lengths_B1 = np.array([[len(row) - len(suffix)] for row in rows])
        weight_BT = (position_1T >= len(prefix)) & (position_1T < lengths_B1)
        totals = np.einsum("ntd,nt->nd", hidden_BTD, weight_BT.astype(np.float32))
        means = totals / np.float32(np.maximum(weight_BT.sum(axis=1, keepdims=True), 1))
        return means[0] if isinstance(texts, str) else means
