"""Masked language modelling: some tokens are hidden or changed, and predicted from both sides.

A row is cls, text, sep. Which tokens are targets, by BERT's, RoBERTa's or ALBERT's rules, and what is shown
in their place: masking.py. The draw is new each time the text comes by (RoBERTa's dynamic masks: a function
of seed, epoch and window), or with `copies` one of so many (BERT's duplicated data).

`mask_decoder` puts DeBERTa's enhanced mask decoder before the head: the last layer runs so many times (2 in
DeBERTa) with one set of weights, each time on keys and values of its input; its queries are first its input
plus a vector of the absolute position, then its own output. So positions enter after all other layers. That
is the official code (microsoft/DeBERTa apps/models/masked_language_model.py); the paper (He et al. 2021,
section 3.2) starts from the vectors of the positions alone. A transferred model runs its last layer as ever.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.models.config import ModelConfig
from tlx.models.heads import MaskedHead, PositionTable
from tlx.models.transformer import Transformer
from tlx.objectives.shared.arrays import sparse_targets, text_of, with_targets
from tlx.objectives.shared.base import (
    Batch,
    Objective,
    ObjectiveModule,
    ObjectiveSpec,
    Predictions,
    at_positions,
    full_unembedding,
)
from tlx.objectives.shared.masking import Masking, chosen_positions, hide, num_predictions
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class MLM(Masking):
    """Masked language modelling (see Masking)."""

    name: str = "mlm"
    """Name in the table of objectives."""
    mask_decoder: int = 0
    """Times that the last layer runs on queries with absolute positions (DeBERTa: 2); 0: no mask decoder."""

    def validate(self) -> None:
        """Raise ConfigError as Masking does, and for a negative number of times."""
        super().validate()
        if self.mask_decoder < 0:
            raise ConfigError(f"objective.mask_decoder = {self.mask_decoder} must not be negative")


def with_special_tokens(window: Window, spec: ObjectiveSpec) -> Window:
    """Return cls, the window's text, sep and padding, [length] each.

    cls belongs to the first document of the window and sep to the last; a window of nothing but padding stays
    that.
    """
    num_text = len(text_of(window))
    tokens = np.full(spec.length, spec.vocab.pad, np.int32)
    positions, segments = np.zeros((2, spec.length), np.int32)
    if num_text == 0:
        return Window(tokens, segments, positions)
    text = slice(1, num_text + 1)
    last = num_text + 1
    tokens[text] = window.tokens[:num_text]
    tokens[0] = spec.vocab.cls
    tokens[last] = spec.vocab.sep
    segments[text] = window.segments[:num_text]
    segments[0] = segments[1]
    segments[last] = segments[num_text]
    # cls moves the first document by one position, no other.
    positions[text] = window.positions[:num_text] + (segments[text] == segments[0])
    positions[last] = positions[num_text] + 1
    return Window(tokens, segments, positions)


def check_mask_decoder(times: int, model: ModelConfig, length: int) -> None:
    """Raise ConfigError unless a model's last layer can run on queries with absolute positions.

    Args:
        times: How often it runs, `objective.mask_decoder`.
        model: The model.
        length: Length of a row.

    Raises:
        ConfigError: The model adds absolute positions before its layers already, or has too few of them.
    """
    position = model.position
    if position.kind in ("learned", "sinusoidal"):
        raise ConfigError(
            f"objective.mask_decoder = {times} adds absolute positions after the other layers; "
            f"model.position.kind = {position.kind!r} has them before the first one: choose "
            "'disentangled' or another relative kind, or mask_decoder = 0"
        )
    if length > position.max_length:
        raise ConfigError(
            f"data.sequence_length = {length} needs {length} positions of the mask decoder, "
            f"model.position.max_length = {position.max_length}; raise one or lower the other"
        )


class MLMHeads(nn.Module):
    """The parameters "heads/mlm", and "heads/places" of a mask decoder."""

    model: ModelConfig
    places_too: bool = False

    def setup(self) -> None:
        """Build the heads."""
        self.mlm = MaskedHead(self.model)
        if self.places_too:
            self.places = PositionTable(self.model)


class MaskedModule(ObjectiveModule):
    """An encoder, and BERT's transform of its hidden states before the token table."""

    def setup(self) -> None:
        """Build the language model and the head."""
        self.lm = Transformer(self.model, name="model")
        self.heads = MLMHeads(self.model)

    def hidden(self, batch: Batch, keys: jax.Array | None) -> jax.Array:
        """Return what the head reads, [B, T, D]."""
        return self.lm(batch, keys=keys)

    @override
    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Return what the masked tokens are predicted from.

        Returns:
            Transformed hidden states [B, P, D] at `target_positions` with the unembedding, and None.
        """
        hidden_BPD = at_positions(self.hidden(batch, keys), batch["target_positions"])
        return Predictions(*self.heads.mlm(hidden_BPD, full_unembedding(self.lm.unembedding()))), None


class MLMModule(MaskedModule):
    """A masked model, with a mask decoder before the head where the config asks for it."""

    @override
    def setup(self) -> None:
        """Build the language model and the heads."""
        self.lm = Transformer(self.model, name="model")
        self.heads = MLMHeads(self.model, self.config.mask_decoder > 0)

    @override
    def hidden(self, batch: Batch, keys: jax.Array | None) -> jax.Array:
        """Return the model's hidden states, or the mask decoder's.

        Raises:
            ConfigError: The model adds absolute positions before its layers already, or has too few of them.
        """
        times = self.config.mask_decoder
        if not times:
            return super().hidden(batch, keys)
        check_mask_decoder(times, self.model, batch["positions"].shape[1])
        return self.lm.with_queries(batch, self.heads.places(batch["positions"]), times, keys=keys)


class MLMObjective(Objective):
    """Masked language modelling."""

    config_class = MLM
    module = MLMModule
    kinds = ("encoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return cls before a text, sep after it; the second of two texts has no type of its own."""
        vocab = spec.vocab
        return Frame(before=(vocab.cls,), between=(vocab.sep,), after=(vocab.sep,))

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row in which nothing is hidden."""
        return with_targets(super().clean_example(texts, spec, languages))

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return packed windows that leave room for cls and sep; raises ConfigError if there is none."""
        if spec.length < 3:
            raise ConfigError(f"data.sequence_length = {spec.length} must be at least 3 for mlm")
        return WindowSpec(length=spec.length - 2, copies=spec.config.copies)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row with masked tokens.

        window: Packed text, [length - 2].

        Returns:
            tokens, positions, segments [length]; target_positions (ascending), targets, weights [P].
        """
        config = spec.config
        row = with_special_tokens(window, spec)
        chosen = chosen_positions(rng, text_of(row), spec, config)
        return {
            "tokens": hide(rng, row.tokens, chosen, spec, config),
            "positions": row.positions,
            "segments": row.segments,
            **sparse_targets(row.tokens, chosen, num_predictions(spec.length, config), spec.vocab.pad),
        }


OBJECTIVE = MLMObjective()
