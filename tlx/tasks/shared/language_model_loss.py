"""The language model's loss beside a task's, which a decoder may keep (Radford et al. 2018, eq. 5: half of it)."""

from typing import Any

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.base.term import Term
from tlx.nn.losses import LossConfig, cross_entropy
from tlx.tasks.shared.base import Batch


def check_lm_loss_weight(weight: float) -> None:
    """Raise ConfigError for a negative weight."""
    if weight < 0:
        raise ConfigError(f"objective.lm_loss_weight = {weight} must not be negative")


def language_model_loss(lm: Any, hidden: jax.Array, batch: Batch, loss: LossConfig, weight: float) -> Term:
    """Compute the mean cross-entropy of every token of the rows after their first.

    Args:
        lm: The decoder; its unembedding predicts the tokens.
        hidden: Hidden states [B, T, D], or [B, K, T, D] of examples of K rows, all of which count (as in
            openai/finetune-transformer-lm train.py the wrong choices too).
        batch: Has `tokens` and `segments` of that shape, and `weights` [B] of examples, or [B, P] of P a row.
        loss: The run's config of losses.
        weight: Factor of the term in the loss.

    Returns:
        The term.
    """
    tokens = batch["tokens"]
    segments = batch["segments"]
    weights = batch["weights"]
    example_weights = weights if weights.ndim == 1 else jnp.max(weights, axis=1)
    rows = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])  # [B, K or 1, T]
    row_weights = jnp.repeat(example_weights, rows.shape[1])
    tokens = tokens.reshape(-1, tokens.shape[-1])
    segments = segments.reshape(tokens.shape)
    hidden = hidden.reshape(*tokens.shape, hidden.shape[-1])
    real = (segments[:, 1:] > 0) * (segments[:, 1:] == segments[:, :-1]) * row_weights[:, None]
    real = real * (tokens[:, 1:] < lm.cfg.padded_vocab)  # a trained prompt is no target
    terms = cross_entropy(hidden[:, :-1], lm.unembedding(), tokens[:, 1:], real, loss)
    return terms["loss"]._replace(loss_weight=weight)
