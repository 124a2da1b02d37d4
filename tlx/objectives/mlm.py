"""Masked language modelling: some tokens are hidden or changed, and predicted from both sides.

A row is cls, text, sep. Which tokens are targets, by BERT's, RoBERTa's or ALBERT's rules, and what is shown
in their place: masking.py. The draw is new each time the text comes by (RoBERTa's dynamic masks: a function
of seed, epoch and window), or with `copies` one of so many (BERT's duplicated data).

`mask_decoder` puts DeBERTa's enhanced mask decoder before the head: the last layer runs so many times (2 in
DeBERTa) with one set of weights, each time on keys and values of its input; its queries are first its input
plus a vector of the absolute place, then its own output. So places enter behind all other layers. That is
the official code (microsoft/DeBERTa apps/models/masked_language_model.py); the paper (He et al. 2021,
section 3.2) starts from the vectors of the places alone. A transferred model runs its last layer as always.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec
from tlx.models.config import ModelConfig
from tlx.models.heads import MaskedHead, PositionTable
from tlx.models.transformer import Transformer
from tlx.objectives.shared.base import (
    Batch,
    Objective,
    ObjectiveModule,
    ObjectiveSpec,
    Predictions,
    sparse_targets,
)
from tlx.objectives.shared.masking import Masking, chosen_positions, hide, num_predictions


@dataclasses.dataclass(frozen=True)
class MLM(Masking):
    """What is masked, and how: see Masking. `mask_decoder`: times that the last layer runs on queries that
    know their absolute places (DeBERTa: 2); 0: hidden states go to the head as they are (BERT)."""

    name: str = "mlm"
    mask_decoder: int = 0

    def validate(self) -> None:
        """As Masking's; ConfigError for a negative number of times too."""
        super().validate()
        if self.mask_decoder < 0:
            raise ConfigError(f"objective.mask_decoder = {self.mask_decoder} must not be negative")


def reads(spec: ObjectiveSpec) -> WindowSpec:
    """Packed windows that leave room for cls and sep; ConfigError if there is none."""
    if spec.length < 3:
        raise ConfigError(f"data.sequence_length = {spec.length} must be at least 3 for mlm")
    return WindowSpec(length=spec.length - 2, copies=spec.config.copies)


def example(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
    """tokens, positions, segments [length]; target_positions (ascending), targets, weights [P]."""
    config = spec.config
    tokens, segments, positions, *_ = framed(window, spec)
    chosen = chosen_positions(rng, tokens[: np.count_nonzero(segments)], spec, config)
    return {
        "tokens": hide(rng, tokens, chosen, spec, config),
        "positions": positions,
        "segments": segments,
        **sparse_targets(tokens, chosen, num_predictions(spec.length, config), spec.vocab.pad),
    }


def framed(window: Window, spec: ObjectiveSpec) -> Window:
    """cls, the window's text, sep, padding: [length] each. cls belongs to the first document of the
    window and sep to the last; a window of nothing but padding stays that."""
    num_text = int(np.count_nonzero(window.segments))
    tokens = np.full(spec.length, spec.vocab.pad, np.int32)
    positions, segments = np.zeros((2, spec.length), np.int32)
    if num_text == 0:
        return Window(tokens, segments, positions)
    text, last = slice(1, num_text + 1), num_text + 1
    tokens[text] = window.tokens[:num_text]
    tokens[0], tokens[last] = spec.vocab.cls, spec.vocab.sep
    segments[text] = window.segments[:num_text]
    segments[0], segments[last] = segments[1], segments[num_text]
    positions[text] = window.positions[:num_text] + (segments[text] == segments[0])
    positions[last] = positions[num_text] + 1
    return Window(tokens, segments, positions)


class MLMHeads(nn.Module):
    """The parameters "heads/mlm", and "heads/places" of a mask decoder."""

    model: ModelConfig
    places_too: bool = False

    def setup(self):
        self.mlm = MaskedHead(self.model)
        if self.places_too:
            self.places = PositionTable(self.model)


class MaskedModule(ObjectiveModule):
    """An encoder, and BERT's transform of its hidden states before the token table."""

    def setup(self):
        self.lm = Transformer(self.model, name="model")
        self.heads = MLMHeads(self.model)

    def hidden(self, batch: Batch, keys: jax.Array | None) -> jax.Array:
        """What the head reads, [B, T, D]."""
        return self.lm(batch, keys=keys)

    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Transformed hidden states [B, P, D] at `target_positions`."""
        hidden_BTD = self.hidden(batch, keys)
        hidden_BPD = jnp.take_along_axis(hidden_BTD, batch["target_positions"][..., None], axis=1)
        return Predictions(*self.heads.mlm(hidden_BPD, self.lm.unembedding())), None


class MLMModule(MaskedModule):
    """The same, with a mask decoder between the two where the config asks for it."""

    def setup(self):
        self.lm = Transformer(self.model, name="model")
        self.heads = MLMHeads(self.model, self.config.mask_decoder > 0)

    def hidden(self, batch: Batch, keys: jax.Array | None) -> jax.Array:
        """The model's hidden states, or the decoder's; ConfigError where places have no vectors to add."""
        times, position = self.config.mask_decoder, self.model.position
        if not times:
            return super().hidden(batch, keys)
        if position.kind in ("learned", "sinusoidal"):
            raise ConfigError(
                f"objective.mask_decoder = {times} adds absolute places behind the other layers; "
                f"model.position.kind = {position.kind!r} has them before the first one: choose "
                "'disentangled' or another relative kind, or mask_decoder = 0"
            )
        length = batch["positions"].shape[1]
        if length > position.max_length:
            raise ConfigError(
                f"data.sequence_length = {length} needs {length} places of the mask decoder, "
                f"model.position.max_length = {position.max_length}; raise one or lower the other"
            )
        return self.lm.with_queries(batch, self.heads.places(batch["positions"]), times, keys=keys)


OBJECTIVE = Objective(MLM, reads, example, MLMModule, kinds=("encoder",))
