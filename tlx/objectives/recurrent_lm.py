"""Transformer-XL: causal language modelling with memory of the text before, carried from batch to batch.

Rows are windows of a stream; each layer also attends to the last `mem_len` inputs it had in the row's
windows before, without gradient (Dai et al. 2019, 3.2). Documents follow one another in the stream and see
each other, told apart by eos, as there. A row begins with an empty memory, as in the paper's PyTorch code;
its TensorFlow code begins with zeros that are attended to. Every token but the stream's first is a target.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError, one_of
from tlx.data.window import Window, WindowSpec, window_of_texts
from tlx.models.transformer import Transformer
from tlx.models.two_stream import Memory, empty_memory, remember
from tlx.objectives.shared.base import Batch, Objective, ObjectiveModule, ObjectiveSpec, Predictions
from tlx.text.frames import Frame

# What tells how far back a token is, in whichever window it stood.
POSITIONS = ("relative_sinusoidal", "relative_bias", "none")


@dataclasses.dataclass(frozen=True)
class RecurrentLM:
    """Length of the memory of each layer, in tokens."""

    name: str = "recurrent_lm"
    """Name in the table of objectives."""
    mem_len: int = 384
    """Tokens of memory in every layer, at least 1."""

    def validate(self) -> None:
        """Raise ConfigError for a memory of less than one token."""
        if self.mem_len < 1:
            raise ConfigError(f"objective.mem_len = {self.mem_len} must be at least 1; clm has no memory")


class RecurrentLMModule(ObjectiveModule):
    """A decoder with memory."""

    def setup(self) -> None:
        """Build the language model; raises ConfigError for positions that do not reach into the memory."""
        kind = self.model.position.kind
        if kind not in POSITIONS:
            raise ConfigError("objective 'recurrent_lm': " + one_of("model.position.kind", kind, POSITIONS))
        self.lm = Transformer(self.model, name="model")

    @override
    def initial_carry(self, batch_size: int) -> Memory:
        """Return an empty memory of `mem_len` tokens in every layer."""
        return empty_memory(self.model, batch_size, self.config.mem_len)

    @override
    def predictions(
        self, batch: Batch, carry: Memory | None, keys: jax.Array | None
    ) -> tuple[Predictions, Memory]:
        """Return the decoder's hidden states.

        carry: The memory; None is an empty one.

        Returns:
            Hidden states [B, T, D] with the unembedding, and the memory for the next batch.
        """
        num_rows, length = batch["tokens"].shape
        memory = self.initial_carry(num_rows) if carry is None else carry
        if self.is_initializing():
            self.lm.unembedding()  # so that an untied output table is drawn
        hidden_BTD, inputs = self.lm.with_memory(batch, memory.hidden, memory.segments, keys=keys)
        memory = remember(memory, inputs, batch["segments"], length)
        return Predictions(hidden_BTD, self.lm.unembedding()), memory


class RecurrentLMObjective(Objective):
    """Transformer-XL's language modelling with memory."""

    config_class = RecurrentLM
    module = RecurrentLMModule
    kinds = ("decoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return eos before and after a text."""
        start = (spec.vocab.eos,)  # that of the document before: a row has no other id in front of a text
        return Frame(before=start, start=start, end=start, place=-1)

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make the row of a text after the end of another."""
        window = window_of_texts(self.window_spec(spec), texts, spec.vocab, languages, (spec.vocab.eos,))
        return self.example(np.random.default_rng(0), window, spec)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return windows of a stream of length + 1 tokens that share one token with the next."""
        return WindowSpec(spec.length + 1, "stream", overlap=1)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row whose targets are its next tokens.

        window: A piece of a stream, [length + 1].

        Returns:
            tokens, targets, weights, positions, segments [length]; weights are 0 on padding only.
        """
        del rng
        real = window.segments[1:] > 0
        return {
            "tokens": np.where(real, window.tokens[:-1], spec.vocab.pad).astype(np.int32),
            "targets": np.where(real, window.tokens[1:], spec.vocab.pad).astype(np.int32),
            "weights": real.astype(np.float32),
            "positions": np.arange(spec.length, dtype=np.int32),
            "segments": real.astype(np.int32),
        }


OBJECTIVE = RecurrentLMObjective()
