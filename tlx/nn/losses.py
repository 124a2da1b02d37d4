"""Cross-entropy over a vocabulary, in float32, without building all logits at once."""

import dataclasses

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
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
    unembedding: Unembedding,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    cfg: LossConfig,
) -> Terms:
    """Terms "loss" (scale 1), "z_loss" (where asked for) and "accuracy" (a metric) over the weights.

    With label smoothing e the target distribution is (1 - e) onehot + e / V, V the unpadded size; "loss"
    is then the cross-entropy against it (Szegedy et al. 2016, sec. 7).
    """
    length = targets_BT.shape[1]
    chunk = cfg.chunk or (length if targets_BT.size * unembedding.kernel.shape[0] <= WHOLE else 128)
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
    hidden: jax.Array, unembedding: Unembedding, targets: jax.Array, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(cross-entropy, log Z, whether the largest logit is the target's) of each token, float32."""
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


def _chunked_sums(hidden, unembedding, targets, weights, smoothing, chunk):
    pad = -targets.shape[1] % chunk

    def pieces(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.swapaxes(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 0, 1)

    @jax.checkpoint
    def body(total, piece):
        return jax.tree.map(jnp.add, total, _sums(piece[0], unembedding, *piece[1:], smoothing)), None

    zero = (jnp.zeros((), jnp.float32),) * 3
    return jax.lax.scan(body, zero, (pieces(hidden), pieces(targets), pieces(weights)))[0]
