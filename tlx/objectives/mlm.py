"""BERT's masked language modelling: some tokens are hidden or changed, and predicted from both sides.

A row is cls, text, sep. min(max_predictions, max(1, round(n * rate))) of its tokens are targets, where n
counts cls and sep and Python's round takes halves to even (google-research/bert
create_pretraining_data.py: 18 of 123). Never a special token. Of the targets 80% show mask, 10% a random
id of the whole vocabulary, 10% stay, each drawn for itself. The draw is new each time the text comes by.
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
from tlx.objectives.protocol import Batch, Objective, ObjectiveModule, Predictions, Spec, sparse_targets
from tlx.text.window import Reads, Window


@dataclasses.dataclass(frozen=True)
class MLM:
    """How many tokens are predicted, and what the model sees in their place.

    `max_predictions` caps the targets of a row (BERT: 20 at length 128); None is no cap.
    """

    name: str = "mlm"
    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    max_predictions: int | None = None

    def validate(self) -> None:
        """Raises ConfigError for a rate outside (0, 1] or shares that exceed one."""
        if not 0 < self.rate <= 1:
            raise ConfigError(f"objective.rate = {self.rate} must be above 0 and at most 1")
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must lie in 0..1")
        if self.mask_share + self.random_share > 1:
            raise ConfigError(
                f"objective.random_share = {self.random_share} must be at most "
                f"1 - objective.mask_share = {1 - self.mask_share:g}"
            )
        if self.max_predictions is not None and self.max_predictions < 1:
            raise ConfigError(f"objective.max_predictions = {self.max_predictions} must be at least 1")


def num_predictions(length: int, config: MLM) -> int:
    """Targets in a row of `length` tokens, cls and sep included."""
    wanted = max(1, round(length * config.rate))
    return wanted if config.max_predictions is None else min(config.max_predictions, wanted)


def reads(spec: Spec) -> Reads:
    """Packed windows that leave room for cls and sep; ConfigError if there is none."""
    if spec.length < 3:
        raise ConfigError(f"data.sequence_length = {spec.length} must be at least 3 for mlm")
    return Reads(length=spec.length - 2)


def example(rng: np.random.Generator, window: Window, spec: Spec) -> dict[str, np.ndarray]:
    """tokens, positions, segments [length]; target_positions (ascending), targets, weights [P]."""
    config, vocab = spec.config, spec.vocab
    tokens, segments, positions, *_ = framed(window, spec)
    num_real = int(np.count_nonzero(segments))
    candidates = np.flatnonzero(~vocab.special[tokens[:num_real]])
    count = min(num_predictions(num_real, config), len(candidates))
    chosen = np.sort(rng.choice(candidates, count, replace=False, shuffle=False))
    shown = tokens.copy()
    draw = rng.random(count)
    random_ids = rng.integers(0, vocab.size, count, dtype=np.int32)
    replaced = np.where(draw < config.mask_share + config.random_share, random_ids, tokens[chosen])
    shown[chosen] = np.where(draw < config.mask_share, vocab.mask, replaced)
    return {
        "tokens": shown,
        "positions": positions,
        "segments": segments,
        **sparse_targets(tokens, chosen, num_predictions(spec.length, config), vocab.pad),
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
