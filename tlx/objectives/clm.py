"""Causal language modelling: every token of the text from the tokens of its document before it.

A row reads one token more than the model does, and windows overlap by that token, so that every token of
the text is a target exactly once. Where a document (or, packed best-fit, the rest of one) starts inside a
window, the input there is bos instead of the last token of the document before, which has nothing left to
predict: first tokens are targets too, and a model can begin from nothing. What a window continues begins
with its own text, without bos.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from typing_extensions import override

from tlx.base.term import Terms
from tlx.data.window import Window, WindowSpec, window_of_texts
from tlx.models.transformer import Transformer
from tlx.nn.losses import cross_entropy
from tlx.objectives.shared.base import Batch, Objective, ObjectiveModule, ObjectiveSpec, Predictions
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class CLM:
    """Causal language modelling has no settings."""

    name: str = "clm"
    """Name in the table of objectives."""

    def validate(self) -> None:
        """Accept every value."""


class CLMModule(ObjectiveModule):
    """A causal decoder with its loss."""

    def setup(self) -> None:
        """Build the language model."""
        self.lm = Transformer(self.model, name="model")

    @override
    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Return the decoder's hidden states.

        Returns:
            Hidden states [B, T, D] with the unembedding, and None.
        """
        return Predictions(self.lm(batch, keys=keys), self.lm.unembedding()), None

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the base class's terms; with experts, also the term "balance" of each microbatch."""
        hidden, balance = self.hidden(batch, keys)
        terms = cross_entropy(hidden, self.lm.unembedding(), batch["targets"], batch["weights"], self.loss)
        return terms | balance, None

    def hidden(self, batch: Batch, keys: jax.Array | None) -> tuple[jax.Array, Terms]:
        """Return the decoder's hidden states [B, T, D], and the term "balance" where it has experts."""
        if not self.model.feedforward.num_experts:
            return self.lm(batch, keys=keys), {}
        hidden, balance = self.lm.with_balance(batch, keys=keys)
        return hidden, {"balance": balance}


class CLMObjective(Objective):
    """Causal language modelling."""

    config_class = CLM
    module = CLMModule
    kinds = ("decoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return bos before a text, eos after it."""
        start = (spec.vocab.bos,)
        return Frame(before=start, start=start, end=(spec.vocab.eos,), place=-1)

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make the row of a text after the end of another."""
        window = window_of_texts(self.window_spec(spec), texts, spec.vocab, languages, (spec.vocab.eos,))
        return self.example(np.random.default_rng(0), window, spec)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return packed windows of length + 1 tokens that share one token with the next."""
        return WindowSpec(length=spec.length + 1, overlap=1)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row whose targets are its next tokens.

        window: Packed text, [length + 1].

        Returns:
            tokens, targets, weights, positions, segments [length]; weights are 0 on padding only.
        """
        del rng
        segments = window.segments[1:]
        real = segments > 0
        starts = (segments != window.segments[:-1]) & real
        # Documents that start in this window begin with bos, which moves their positions by one.
        after_bos = segments != window.segments[0]
        tokens = np.where(starts, spec.vocab.bos, np.where(real, window.tokens[:-1], spec.vocab.pad))
        positions = np.where(starts | ~real, 0, window.positions[:-1] + after_bos)
        return {
            "tokens": tokens.astype(np.int32),
            "targets": np.where(real, window.tokens[1:], spec.vocab.pad).astype(np.int32),
            "weights": real.astype(np.float32),
            "positions": positions.astype(np.int32),
            "segments": segments.astype(np.int32),
        }


OBJECTIVE = CLMObjective()
