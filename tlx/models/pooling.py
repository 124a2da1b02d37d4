"""From the hidden states of a text to one vector, as sentence-transformers has it (Reimers and Gurevych 2019)."""

import dataclasses
from typing import Literal

import numpy as np

from tlx.base.errors import ConfigError

Pooling = Literal["cls", "mean", "max", "mean_sqrt_len", "weightedmean", "lasttoken"]


@dataclasses.dataclass(frozen=True)
class SentenceConfig:
    """Conversion of a text to a vector; the defaults average the text's own tokens."""

    pooling: tuple[Pooling, ...] = ("mean",)
    """Ways of pooling, whose vectors are joined. cls: the first token. mean, max: over all tokens. mean_sqrt_len:
    the sum over the square root of their number. weightedmean: with the weights 1, 2, 3 ... lasttoken: the last."""
    special_tokens: bool = False
    """Whether the special tokens around a text count too."""
    normalize: bool = False
    """Whether vectors are divided by their length."""
    max_tokens: int = 0
    """Tokens, special ones included, after which a text is cut off; 0: a text beyond the model's positions is an
    error."""
    lower_case: bool = False
    """Whether texts are converted to lower case first."""
    strip: bool = False
    """Whether white space around a text and its prompt is removed."""
    prompts: tuple[tuple[str, str], ...] = ()
    """Names and texts that can be put before a text: (("query", "query: "),)."""
    default_prompt: str = ""
    """Name of the prompt that is put before every text; "" is none."""

    def validate(self) -> None:
        """Raise ConfigError for values that no text can be embedded with."""
        if not self.pooling:
            raise ConfigError("embed.pooling = () must name one way or more")
        if self.max_tokens < 0:
            raise ConfigError(f"embed.max_tokens = {self.max_tokens} must not be negative; 0 is no limit")
        self.prompt(self.default_prompt)

    def prompt(self, name: str) -> str:
        """Return the prompt of a name, "" for "". Raises ConfigError for an unknown name."""
        if not name:
            return ""
        texts = dict(self.prompts)
        if name not in texts:
            legal = ", ".join(texts) or "none"
            raise ConfigError(f"prompt = {name!r} is not one of the model's prompts: {legal}")
        return texts[name]


def pool(hidden_BTD: np.ndarray, counted_BT: np.ndarray, config: SentenceConfig) -> np.ndarray:
    """Pool hidden states to one vector for each text.

    Args:
        hidden_BTD: Hidden states, float32.
        counted_BT: Whether a token counts, bool.
        config: The ways of pooling, and whether vectors are normalised.

    Returns:
        float32 [B, D times the number of ways]; 0 for a text without tokens.
    """
    weights_BT = counted_BT.astype(np.float32)
    vectors = np.concatenate([_pool_one(hidden_BTD, weights_BT, way) for way in config.pooling], axis=1)
    if not config.normalize:
        return vectors
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))


def _pool_one(hidden_BTD: np.ndarray, weights_BT: np.ndarray, way: Pooling) -> np.ndarray:
    rows = np.arange(len(hidden_BTD))
    counts_B1 = np.maximum(weights_BT.sum(axis=1, keepdims=True), 1)
    if way == "cls":
        return hidden_BTD[rows, weights_BT.argmax(axis=1)] * weights_BT.max(axis=1, keepdims=True)
    if way == "lasttoken":
        last_B = weights_BT.shape[1] - 1 - weights_BT[:, ::-1].argmax(axis=1)
        return hidden_BTD[rows, last_B] * weights_BT.max(axis=1, keepdims=True)
    if way == "max":
        highest_BD = np.where(weights_BT[..., None] > 0, hidden_BTD, -np.inf).max(axis=1)
        return np.where(np.isfinite(highest_BD), highest_BD, np.float32(0))
    if way == "weightedmean":
        weights_BT = weights_BT * np.cumsum(weights_BT, axis=1)
        counts_B1 = np.maximum(weights_BT.sum(axis=1, keepdims=True), 1)
    if way == "mean_sqrt_len":
        counts_B1 = np.sqrt(counts_B1)
    return np.einsum("btd,bt->bd", hidden_BTD, weights_BT) / counts_B1.astype(np.float32)
