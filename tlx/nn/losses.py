"""Cross-entropy over a vocabulary, in float32, without building all logits at once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.nn import adaptive
from tlx.nn.adaptive import AdaptiveUnembedding
from tlx.nn.embed import Unembedding, logits

# Above this many logits in a batch they are built piece by piece, along the sequence.
WHOLE = 2**25


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is added to the cross-entropy, and how it is computed."""

    z_loss: float = 0.0  # times log(Z)^2 (PaLM: 1e-4)
    label_smoothing: float = 0.0  # share of the target spread over the vocabulary
    chunk: int = 0  # positions per piece; 0: all of them up to 2^25 logits, then pieces of 128

    def validate(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"loss.label_smoothing = {self.label_smoothing} must be in [0, 1)")
        if self.z_loss < 0 or self.chunk < 0:
            raise ConfigError(
                f"loss.z_loss = {self.z_loss} and loss.chunk = {self.chunk} must not be negative"
            )


def cross_entropy(
    hidden_BTD: jax.Array,
    unembedding: Unembedding | AdaptiveUnembedding,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    cfg: LossConfig,
) -> Terms:
    """Terms "loss" (scale 1), "z_loss" (where asked for) and "accuracy" (a metric) over the weights.

    With label smoothing e the target distribution is (1 - e) onehot + e / V, V the unpadded size; "loss"
    is then the cross-entropy against it (Szegedy et al. 2016, sec. 7).
    """
    length = targets_BT.shape[1]
    chunk = cfg.chunk or (length if targets_BT.size * unembedding.num_rows <= WHOLE else 128)
    if chunk >= length:
        sums = _sums(hidden_BTD, unembedding, targets_BT, weights_BT, cfg.label_smoothing)
    else:
        sums = _chunked_sums(hidden_BTD, unembedding, targets_BT, weights_BT, cfg.label_smoothing, chunk)
    loss, z_squared, correct = sums
    weight = jnp.sum(weights_BT.astype(jnp.float32))
    terms = {"loss": Term(loss, weight, 1.0), "accuracy": Term(correct, weight)}
    if cfg.z_loss:
        terms["z_loss"] = Term(z_squared, weight, cfg.z_loss)
    return terms


def token_losses(
    hidden: jax.Array,
    unembedding: Unembedding | AdaptiveUnembedding,
    targets: jax.Array,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(cross-entropy, log Z, whether the largest logit is the target's) of each token, float32."""
    if isinstance(unembedding, AdaptiveUnembedding):
        return adaptive.token_losses(hidden, unembedding, targets, label_smoothing)
    y = logits(hidden, unembedding)
    log_z = jax.nn.logsumexp(y, axis=-1)
    # A comparison and a sum shard over the vocabulary; a gather would collect the logits first.
    hit = jnp.arange(y.shape[-1]) == targets[..., None]
    target = jnp.sum(jnp.where(hit, y, 0.0), axis=-1)
    loss = log_z - target
    if label_smoothing:
        real = jnp.arange(y.shape[-1]) < unembedding.vocab_size
        mean = jnp.sum(jnp.where(real, y, 0.0), axis=-1) / unembedding.vocab_size
        loss = (1 - label_smoothing) * loss + label_smoothing * (log_z - mean)
    return loss, log_z, target >= jnp.max(y, axis=-1)


def _sums(hidden, unembedding, targets, weights, smoothing) -> tuple[jax.Array, jax.Array, jax.Array]:
    loss, log_z, correct = token_losses(hidden, unembedding, targets, smoothing)
    weights = weights.astype(jnp.float32)
    return jnp.sum(loss * weights), jnp.sum(jnp.square(log_z) * weights), jnp.sum(correct * weights)


def soft_cross_entropy(
    hidden_BTD: jax.Array,
    unembedding: Unembedding,
    teacher_BTE: jax.Array,
    teacher_unembedding: Unembedding,
    weights_BT: jax.Array,
    temperature: float,
    cfg: LossConfig,
) -> Term:
    """KL(p || q) in nats over the weights, q = softmax(y / temperature) of the logits, p of the teacher's.

    Both vocabularies are one; the gradient goes to the hidden states and their unembedding, not to the
    teacher (Hinton et al. 2015, section 2).
    """
    length, size = weights_BT.shape[1], weights_BT.size * 2 * unembedding.num_rows
    real = unembedding.vocab_size

    def sums(hidden, theirs, weights):
        ours = jax.nn.log_softmax(logits(hidden, unembedding)[..., :real] / temperature)
        theirs = jax.lax.stop_gradient(logits(theirs, teacher_unembedding)[..., :real])
        theirs = jax.nn.log_softmax(theirs / temperature)
        divergences = jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)
        return jnp.sum(divergences * weights.astype(jnp.float32))

    arrays = (hidden_BTD, teacher_BTE, weights_BT)
    chunk = cfg.chunk or (length if size <= WHOLE else 128)
    total = sums(*arrays) if chunk >= length else _in_chunks(sums, arrays, chunk)
    return Term(total, jnp.sum(weights_BT.astype(jnp.float32)), 1.0)


def _chunked_sums(hidden, unembedding, targets, weights, smoothing, chunk):
    def sums(hidden, targets, weights):
        return _sums(hidden, unembedding, targets, weights, smoothing)

    return _in_chunks(sums, (hidden, targets, weights), chunk)


def _in_chunks(sums: Callable[..., Any], arrays: Sequence[jax.Array], chunk: int) -> Any:
    """The sum of sums(*pieces) over pieces of `chunk` places of [B, T, ...] arrays, the last one padded."""
    pad = -arrays[0].shape[1] % chunk

    def pieces(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.swapaxes(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 0, 1)

    body = jax.checkpoint(lambda total, piece: (jax.tree.map(jnp.add, total, sums(*piece)), None))
    split = tuple(pieces(x) for x in arrays)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(sums, *(x[0] for x in split)))
    return jax.lax.scan(body, zero, split)[0]
