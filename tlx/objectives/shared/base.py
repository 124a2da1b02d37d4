"""What every objective is: a config, what it reads, an example in numpy, and a module with its loss.

An objective is one file. Its `example` runs in data workers: pure, fixed shapes, numpy only. Its module
owns the language model (submodule "model") and the heads it needs (submodule "heads", by objective), and
turns a batch of examples into Terms. Keys of a batch, each with a leading batch dim:

    tokens, positions, segments     int32 [B, T]; with encoder_ and decoder_ in front for two towers
    targets, weights                int32 and float32 [B, T], or [B, P] beside
    target_positions                int32 [B, P]: the places in the row that `targets` belong to

and keys of an objective's own (`rank`, `types`, ...).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from tlx.base.term import Terms
from tlx.data.window import Window, WindowSpec
from tlx.models.config import ModelConfig
from tlx.nn import embed
from tlx.nn.adaptive import AdaptiveUnembedding
from tlx.nn.embed import Unembedding
from tlx.nn.losses import LossConfig, cross_entropy
from tlx.text.characters import character_table
from tlx.text.tokenizer import Tokenizer
from tlx.text.vocabulary import Vocabulary

Batch = dict[str, jax.Array]


class Predictions(NamedTuple):
    """Hidden states in the shape of `targets`, and the kernel that turns them into logits."""

    hidden: jax.Array  # [B, T or P, D]
    unembedding: Unembedding | AdaptiveUnembedding


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectiveSpec:
    """What an example depends on besides its text and its randomness.

    `length` is the model's sequence length (the encoder's, where there are two). `starts_word` [V] is
    True for pieces that begin a word, `ends_sentence` [V] for those that end a sentence; None where the
    tokenizer does not know. `languages` are the data's, by their numbers. `characters` [V, C] are those of
    each id (nn/characters.py), for an objective whose config has `max_characters`.
    """

    config: Any
    length: int
    vocab: Vocabulary
    starts_word: np.ndarray | None = None
    ends_sentence: np.ndarray | None = None
    languages: tuple[str, ...] = ("",)
    characters: np.ndarray | None = None

    @classmethod
    def of(
        cls, config: Any, length: int, tokenizer: Tokenizer, languages: tuple[str, ...]
    ) -> "ObjectiveSpec":
        """The spec of a run with this tokenizer."""
        tables = tokenizer.starts_word, tokenizer.ends_sentence
        count = getattr(config, "max_characters", 0)
        characters = character_table(tokenizer, count) if count else None
        return cls(config, length, tokenizer.vocab, *tables, languages, characters)


class ObjectiveModule(nn.Module):
    """The base of every module: cross-entropy of `targets` from what `predictions` returns.

    An objective whose loss is something else, or more, overrides `__call__`; one with memories overrides
    `initial_carry`. Weights of terms are functions of the batch alone. Parameters are {"model": ...} and
    {"heads": {objective: ...}} where there are heads.
    """

    config: Any
    model: ModelConfig
    loss: LossConfig = LossConfig()

    def initial_carry(self, batch_size: int) -> Any:
        """What the first batch continues; None where rows have no memory."""
        return None

    def frozen(self) -> dict[str, Any]:
        """Abstract parameters in boxes that a run loads and never changes, none of them among the others."""
        return {}

    def begin(self, params: Any, frozen: Any) -> Any:
        """The parameters before the first step, from those that were drawn and those that are frozen."""
        return params

    def standalone(self, params: Any) -> Any:
        """Parameters whose "model" is whole without the heads: what a task or another format goes on from."""
        return params

    def predictions(self, batch: Batch, carry: Any, keys: jax.Array | None) -> tuple[Predictions, Any]:
        """(what to predict `targets` from, the carry for the next batch)."""
        raise NotImplementedError

    def __call__(self, batch: Batch, carry: Any = None, keys: jax.Array | None = None) -> tuple[Terms, Any]:
        """(terms, the carry for the next batch). keys: a PRNG key for each row; None draws nothing."""
        (hidden, unembedding), carry = self.predictions(batch, carry, keys)
        return cross_entropy(hidden, unembedding, batch["targets"], batch["weights"], self.loss), carry

    def logits(self, batch: Batch, carry: Any = None) -> jax.Array:
        """float32 [..., V] for every place of `targets`, without dropout; V the unpadded vocabulary."""
        (hidden, unembedding), _ = self.predictions(batch, carry, None)
        return embed.logits(hidden, unembedding)[..., : unembedding.vocab_size]


class Objective(NamedTuple):
    """The halves of an objective, as its file exports them under the name OBJECTIVE.

    reads(spec) says which text one row needs, ConfigError if `spec` makes no sense. example(rng, window,
    spec) gives one row's arrays (int32 and float32, always of the same shapes). `kinds` are the values of
    ModelConfig.kind it works with. `fills_gaps`: a sentinel in the source asks for the text in its place.
    """

    config_class: type
    reads: Callable[[ObjectiveSpec], WindowSpec]
    example: Callable[[np.random.Generator, Window, ObjectiveSpec], dict[str, np.ndarray]]
    module: type[ObjectiveModule]
    kinds: tuple[str, ...]
    fills_gaps: bool = False


def sparse_targets(tokens: np.ndarray, positions: np.ndarray, size: int, pad: int) -> dict[str, np.ndarray]:
    """`target_positions`, `targets`, `weights`, each [size]: what stands at `positions`, then weight 0."""
    count = len(positions)
    target_positions = np.zeros(size, np.int32)
    target_positions[:count] = positions
    targets = np.full(size, pad, np.int32)
    targets[:count] = tokens[positions]
    weights = np.zeros(size, np.float32)
    weights[:count] = 1.0
    return {"target_positions": target_positions, "targets": targets, "weights": weights}
