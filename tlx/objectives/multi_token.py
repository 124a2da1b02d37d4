"""Multi-token prediction: a causal decoder whose heads predict further tokens from the same hidden state.

Of the hidden state h_t, the model predicts token t + 1 and head k token t + 1 + k. The loss is the model's and
decay ** k times that of head k. Two papers have such heads:

- Gloeckle et al. 2024 (arXiv:2404.19737): the model is pretrained with them, all losses alike (decay 1), and they
  read the model's output kernel (own_outputs = False). Their heads are layers of a transformer, those here Medusa's.
- Medusa-1 (Cai et al. 2024, arXiv:2401.10774, sections 2.1 and 2.2.1): heads of a finished model, which stays as it
  is (adapt.method = "head"), decay 0.8, each with an output kernel of its own, which begins as the model's.

Decoding drafts with the heads (`tlx generate --draft=heads`, decode/drafters.py). They are parameters of the
objective ("heads/multi_token_1" ...), which transfer and exports leave behind.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Terms
from tlx.models.config import ModelConfig
from tlx.models.heads import FutureHead
from tlx.models.transformer import Transformer
from tlx.nn import embed
from tlx.nn.embed import Unembedding
from tlx.nn.losses import cross_entropy
from tlx.objectives.clm import CLMModule, CLMObjective
from tlx.objectives.shared.base import Batch, full_unembedding


@dataclasses.dataclass(frozen=True)
class MultiToken:
    """Number of heads, their outputs and the weights of their losses."""

    name: str = "multi_token"
    """Name in the table of objectives."""
    num_heads: int = 4
    """Number of further tokens that are predicted, at least 1 (Gloeckle et al.: 3; Medusa: up to 5)."""
    own_outputs: bool = True
    """Whether each head has an output kernel of its own, as large as the token table, or reads the model's."""
    decay: float = 0.8
    """Weight of the loss of head k = 1, 2 ... is decay ** k; above 0, at most 1 (Medusa: 0.8; Gloeckle et al.: 1)."""

    def validate(self) -> None:
        """Raise ConfigError for no head, or a weight out of range."""
        if self.num_heads < 1:
            raise ConfigError(
                f"objective.num_heads = {self.num_heads} must be at least 1; without heads it is objective 'clm'"
            )
        if not 0 < self.decay <= 1:
            raise ConfigError(f"objective.decay = {self.decay} must be above 0 and at most 1")


class FutureHeads(nn.Module):
    """The parameters "heads/multi_token_1", "heads/multi_token_2" ..."""

    model: ModelConfig
    config: MultiToken

    def setup(self) -> None:
        """Build the heads."""
        self.multi_token = {
            str(k): FutureHead(self.model, self.config.own_outputs)
            for k in range(1, self.config.num_heads + 1)
        }

    def __call__(self, hidden: jax.Array, unembedding: Unembedding) -> list[tuple[jax.Array, Unembedding]]:
        """Return what each head reads its token from: hidden states [..., D] and an unembedding."""
        return [head(hidden, unembedding) for head in self.multi_token.values()]


class MultiTokenModule(CLMModule):
    """A causal decoder, and heads of further tokens."""

    @override
    def setup(self) -> None:
        """Build the language model and the heads."""
        self.lm = Transformer(self.model, name="model")
        self.heads = FutureHeads(self.model, self.config)

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return a causal model's terms, and of each head "loss_1", "accuracy_1", "loss_2" ..."""
        hidden, terms = self.hidden(batch, keys)
        unembedding = full_unembedding(self.lm.unembedding())
        terms |= cross_entropy(hidden, unembedding, batch["targets"], batch["weights"], self.loss)
        for k, (head_hidden, head_unembedding) in enumerate(self.heads(hidden, unembedding), start=1):
            targets, weights = future_targets(batch, k)
            head_terms = cross_entropy(head_hidden, head_unembedding, targets, weights, self.loss)
            weight = self.config.decay**k
            terms |= {
                f"{name}_{k}": term._replace(loss_weight=term.loss_weight * weight)
                for name, term in head_terms.items()
            }
        return terms, None

    def future_logits(self, hidden: jax.Array) -> jax.Array:
        """Return the heads' logits of the further tokens.

        Args:
            hidden: [..., D], of the token before the next one.

        Returns:
            float32 [..., K, V]; V is the unpadded vocabulary.
        """
        unembedding = full_unembedding(self.lm.unembedding())
        logits = [embed.logits(*outputs) for outputs in self.heads(hidden, unembedding)]
        return jnp.stack(logits, axis=-2)[..., : self.model.vocab_size]


def future_targets(batch: Batch, distance: int) -> tuple[jax.Array, jax.Array]:
    """Return the targets `distance` positions further in the same document.

    Args:
        batch: targets, weights and segments [B, T].
        distance: Number of positions.

    Returns:
        (targets, weights) [B, T]; weights are 0 where the document or the row has no such target.
    """
    later = {name: jnp.roll(batch[name], -distance, axis=1) for name in ("targets", "weights", "segments")}
    is_inside = jnp.arange(batch["segments"].shape[1]) < batch["segments"].shape[1] - distance
    same = (later["segments"] == batch["segments"]) & is_inside
    return later["targets"], later["weights"] * same


class MultiTokenObjective(CLMObjective):
    """Multi-token prediction."""

    config_class = MultiToken
    module = MultiTokenModule


OBJECTIVE = MultiTokenObjective()
