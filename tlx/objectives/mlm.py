"""Masked language modelling: some tokens are hidden or changed, and predicted from both sides.

A row is cls, text, sep. Which tokens are targets, by BERT's, RoBERTa's or ALBERT's rules, and what is shown
in their place: masking.py. The draw is new each time the text comes by (RoBERTa's dynamic masks: a function
of seed, epoch and window), or with `copies` one of so many (BERT's duplicated data).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.models.heads import MaskedHead
from tlx.models.transformer import Transformer
from tlx.objectives.masking import Masking, chosen_places, hide, num_predictions
from tlx.objectives.protocol import Batch, Objective, ObjectiveModule, Predictions, Spec, sparse_targets
from tlx.text.window import Reads, Window


@dataclasses.dataclass(frozen=True)
class MLM(Masking):
    """What is masked, and how: see Masking."""

    name: str = "mlm"


def reads(spec: Spec) -> Reads:
    """Packed windows that leave room for cls and sep; ConfigError if there is none."""
    if spec.length < 3:
        raise ConfigError(f"data.sequence_length = {spec.length} must be at least 3 for mlm")
    return Reads(length=spec.length - 2, copies=spec.config.copies)


def example(rng: np.random.Generator, window: Window, spec: Spec) -> dict[str, np.ndarray]:
    """tokens, positions, segments [length]; target_positions (ascending), targets, weights [P]."""
    config = spec.config
    tokens, segments, positions, *_ = framed(window, spec)
    chosen = chosen_places(rng, tokens[: np.count_nonzero(segments)], spec, config)
    return {
        "tokens": hide(rng, tokens, chosen, spec, config),
        "positions": positions,
        "segments": segments,
        **sparse_targets(tokens, chosen, num_predictions(spec.length, config), spec.vocab.pad),
    }


def framed(window: Window, spec: Spec) -> Window:
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


class Heads(nn.Module):
    """The parameters "heads/mlm"."""

    model: ModelConfig

    def setup(self):
        self.mlm = MaskedHead(self.model)


class MLMModule(ObjectiveModule):
    """An encoder, and BERT's transform of its hidden states before the token table."""

    def setup(self):
        self.lm = Transformer(self.model, name="model")
        self.heads = Heads(self.model)

    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Transformed hidden states [B, P, D] at `target_positions`."""
        hidden_BTD = self.lm(batch, keys=keys)
        hidden_BPD = jnp.take_along_axis(hidden_BTD, batch["target_positions"][..., None], axis=1)
        return Predictions(*self.heads.mlm(hidden_BPD, self.lm.unembedding())), None


OBJECTIVE = Objective(MLM, reads, example, MLMModule, kinds=("encoder",))
