"""The base class of objectives, and of their modules.

An objective is one file: a config dataclass, an `Objective` subclass with the examples in numpy, and a Linen
module with the loss. `Objective.example` runs in data workers: pure, fixed shapes, numpy only. The module
owns the language model (submodule "model") and the heads that the objective needs (submodule "heads", by
objective), and turns a batch of examples into Terms. Keys of a batch, each with a leading batch dim:

    tokens, positions, segments     int32 [B, T]; with encoder_ and decoder_ in front for encoder-decoders
    targets, weights                int32 and float32 [B, T], or [B, P] beside
    target_positions                int32 [B, P]: the positions in the row that `targets` belong to

and keys of an objective's own (`rank`, `types`, ...).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.base.term import Terms
from tlx.data.window import Window, WindowSpec, dummy_window, window_of_texts
from tlx.models.config import ModelConfig
from tlx.nn import embed
from tlx.nn.adaptive import AdaptiveUnembedding
from tlx.nn.embed import Unembedding
from tlx.nn.losses import LossConfig, cross_entropy
from tlx.objectives.shared.word_starts import albert_word_starts
from tlx.text.characters import character_table
from tlx.text.frames import Frame
from tlx.text.tokenizer import Tokenizer
from tlx.text.vocabulary import Vocabulary

Batch = dict[str, jax.Array]


class Predictions(NamedTuple):
    """Hidden states in the shape of `targets`, and the kernel that turns them into logits."""

    hidden: jax.Array
    """[B, T, D] or [B, P, D]."""
    unembedding: Unembedding | AdaptiveUnembedding
    """The kernel, and the bias where there is one."""


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectiveSpec:
    """Values that an example depends on besides its text and its random generator."""

    config: Any
    """The objective's config."""
    length: int
    """Sequence length of the model, in tokens; of the encoder where there are two."""
    vocab: Vocabulary
    """Vocabulary of the tokenizer."""
    starts_word: np.ndarray | None = None
    """bool [V], True for pieces that begin a word; None where the tokenizer does not know."""
    ends_sentence: np.ndarray | None = None
    """bool [V], True for pieces that end a sentence; None where the tokenizer does not know."""
    languages: tuple[str, ...] = ("",)
    """Languages of the data, by their index."""
    characters: np.ndarray | None = None
    """int32 [V, C], the characters of each id (nn/characters.py), for configs with `max_characters`."""

    @classmethod
    def of(
        cls, config: Any, length: int, tokenizer: Tokenizer, languages: tuple[str, ...]
    ) -> "ObjectiveSpec":
        """Build the spec of a run with this tokenizer.

        Args:
            config: The objective's config.
            length: Sequence length in tokens.
            tokenizer: The run's tokenizer.
            languages: Languages of the data.

        Returns:
            The spec, with the tables that the tokenizer has.
        """
        num_characters = getattr(config, "max_characters", 0)
        by_albert = getattr(config, "word_rule", "tokenizer") == "albert"
        return cls(
            config=config,
            length=length,
            vocab=tokenizer.vocab,
            starts_word=albert_word_starts(tokenizer) if by_albert else tokenizer.starts_word,
            ends_sentence=tokenizer.ends_sentence,
            languages=languages,
            characters=character_table(tokenizer, num_characters) if num_characters else None,
        )


class LossModule(nn.Module):
    """Base of the modules of objectives and tasks: a language model, heads, and a loss.

    Parameters are {"model": ...} and {"heads": {objective: ...}} where there are heads. `__call__(batch,
    carry, keys)` returns the terms of the loss and the carry for the next batch.
    """

    config: Any
    model: ModelConfig
    loss: LossConfig = LossConfig()

    def initial_carry(self, batch_size: int) -> Any:
        """Return what the first batch continues; None where rows have no memory."""
        return None

    def frozen(self) -> dict[str, Any]:
        """Return abstract, boxed parameters that a run loads and never trains; none is among the others."""
        return {}

    def begin(self, params: Any, frozen: Any) -> Any:
        """Return the parameters before the first step, given the drawn ones and the frozen ones."""
        return params

    def standalone(self, params: Any) -> Any:
        """Return parameters whose "model" is whole without the heads, for tasks and exports."""
        return params


class ObjectiveModule(LossModule):
    """Base of every objective's module: cross-entropy of `targets` from what `predictions` returns.

    An objective whose loss is something else, or more, overrides `__call__`; one with memories overrides
    `initial_carry`. Weights of terms are functions of the batch alone.
    """

    def predictions(self, batch: Batch, carry: Any, keys: jax.Array | None) -> tuple[Predictions, Any]:
        """Compute what `targets` are predicted from.

        Args:
            batch: Arrays of a batch, see the module's docstring.
            carry: What this batch continues, as `initial_carry` has it.
            keys: A PRNG key for each row, [B]; None draws nothing (no dropout).

        Returns:
            The predictions, and the carry for the next batch.
        """
        raise NotImplementedError

    def __call__(self, batch: Batch, carry: Any = None, keys: jax.Array | None = None) -> tuple[Terms, Any]:
        """Compute the terms of the loss.

        Args:
            batch: Arrays of a batch, see the module's docstring.
            carry: What this batch continues, as `initial_carry` has it.
            keys: A PRNG key for each row, [B]; None draws nothing (no dropout).

        Returns:
            The terms, and the carry for the next batch.
        """
        (hidden, unembedding), carry = self.predictions(batch, carry, keys)
        return cross_entropy(hidden, unembedding, batch["targets"], batch["weights"], self.loss), carry

    def logits(self, batch: Batch, carry: Any = None) -> jax.Array:
        """Return float32 logits [..., V] of each target, without dropout; V is the unpadded vocabulary."""
        (hidden, unembedding), _ = self.predictions(batch, carry, None)
        return embed.logits(hidden, unembedding)[..., : unembedding.vocab_size]


class Objective:
    """Base class of objectives and, through `Task`, of tasks.

    A file exports one instance under the name OBJECTIVE. Instances are pickled to data workers: they hold no
    array, tokenizer or model, and all that varies is in the spec.
    """

    config_class: ClassVar[type]
    """Dataclass of the objective's settings; its `name` is the name in the table."""
    module: ClassVar[type[LossModule]]
    """Class of the Linen module, called with (config, model config, loss config)."""
    kinds: ClassVar[tuple[str, ...]]
    """Values of ModelConfig.kind that the objective works with; the first is the default."""
    fills_gaps: ClassVar[bool] = False
    """Whether a sentinel in the source asks for the text that is missing there."""
    restores_masks: ClassVar[bool] = False
    """Whether the source of an encoder-decoder has masks, and the answer is the whole text without them."""
    supervised: ClassVar[bool] = False
    """Whether examples are made of labelled records (a task) instead of text."""

    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return which text one row needs; raises ConfigError if the spec makes no sense."""
        raise NotImplementedError

    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make one row of a batch.

        Args:
            rng: Random generator of this row.
            window: Text as `window_spec` asks for it.
            spec: What examples depend on.

        Returns:
            int32 and float32 arrays, of the same names and shapes for every window.
        """
        raise NotImplementedError

    def updates_per_step(self, config: Any) -> int:
        """Return how many updates of the parameters a step makes; 1 but where it makes several of one batch."""
        del config
        return 1

    def frame(self, spec: Any) -> Frame:
        """Return the form of the texts that a model of this objective reads and writes.

        Args:
            spec: What examples depend on; the config, the vocabulary and the languages count.

        Returns:
            The frame, which everything that uses the model takes.
        """
        raise NotImplementedError

    def clean_example(
        self, texts: Sequence[np.ndarray], spec: Any, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make the row of a text, or of a text and a second one, with the noise off.

        It is the reference for `frame`: what a use of the model feeds it must be this.

        Args:
            texts: int32 ids, without special ids.
            spec: What examples depend on.
            languages: Language of each text.

        Returns:
            The arrays of `example`.
        """
        window = window_of_texts(self.window_spec(spec), texts, spec.vocab, languages)
        return self.example(np.random.default_rng(0), window, spec)

    def make_spec(
        self,
        config: Any,
        model: ModelConfig,
        length: int,
        languages: tuple[str, ...],
        tokenizer: Tokenizer,
        frame: Frame | None = None,
    ) -> Any:
        """Build what the examples of a run depend on.

        Args:
            config: The objective's config.
            model: Config of the model.
            length: Sequence length in tokens.
            languages: Languages of the data.
            tokenizer: The run's tokenizer.
            frame: For tasks, the form of the texts that the base model was trained with; None: that of tlx's rows.

        Returns:
            An ObjectiveSpec; a TaskSpec for tasks.
        """
        return ObjectiveSpec.of(config, length, tokenizer, languages)

    def abstract_spec(
        self,
        config: Any,
        model: ModelConfig,
        length: int,
        languages: tuple[str, ...],
        vocab: Vocabulary,
        frame: Frame | None = None,
    ) -> Any:
        """Build the spec as far as shapes depend on it, before there is a tokenizer.

        Args:
            config: The objective's config.
            model: Config of the model.
            length: Sequence length in tokens.
            languages: Languages of the data.
            vocab: The vocabulary that the tokenizer will have.
            frame: As make_spec's.

        Returns:
            An ObjectiveSpec; a TaskSpec for tasks.
        """
        starts_word = np.ones(vocab.size, bool)
        ends_sentence = np.ones(vocab.size, bool)
        return ObjectiveSpec(config, length, vocab, starts_word, ends_sentence, languages)

    def check_spec(self, spec: Any) -> None:
        """Raise ConfigError if rows cannot be made with this spec."""
        self.window_spec(spec)

    def abstract_example(self, spec: Any) -> dict[str, np.ndarray]:
        """Make an example of placeholder text, for the names, shapes and dtypes of a batch."""
        window = dummy_window(self.window_spec(spec), spec.vocab)
        return self.example(np.random.default_rng(0), window, spec)


def marks_of(spec: ObjectiveSpec) -> tuple[tuple[str, int], ...]:
    """Return the names of the data's languages with their marks, ids of the vocabulary."""
    return tuple((name, spec.vocab.mark(index)) for index, name in enumerate(spec.languages))


def full_unembedding(unembedding: Unembedding | AdaptiveUnembedding) -> Unembedding:
    """Return the unembedding of a model whose softmax is over the whole vocabulary.

    Raises:
        ConfigError: The model has an adaptive softmax.
    """
    if isinstance(unembedding, AdaptiveUnembedding):
        raise ConfigError("this objective needs a softmax over the whole vocabulary, the model's is adaptive")
    return unembedding


def at_positions(hidden_BTD: jax.Array, positions_BP: jax.Array) -> jax.Array:
    """Gather the hidden states [B, P, D] at some positions of each row."""
    return jnp.take_along_axis(hidden_BTD, positions_BP[..., None], axis=1)
