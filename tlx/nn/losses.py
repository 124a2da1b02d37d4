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

WHOLE = 2**25
"""Largest number of logits of a batch that are built at once; more are built in chunks along the sequence."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Terms beside the cross-entropy, and the chunks in which it is computed."""

    z_loss: float = 0.0
    """Coefficient of log(Z)^2 (PaLM: 1e-4), at least 0; 0: none."""

    label_smoothing: float = 0.0
    """Fraction of the target that is spread over the vocabulary, in [0, 1)."""

    chunk: int = 0
    """Positions whose logits are built at once; 0: all of them up to 2^25 logits, above that 128."""

    def validate(self) -> None:
        """Raise ConfigError for a value out of range."""
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
    """Compute the cross-entropy of the targets, summed over the weights.

    With label smoothing e the target distribution is (1 - e) onehot + e / V, V the unpadded vocabulary size
    (Szegedy et al. 2016, sec. 7).

    Args:
        hidden_BTD: hidden states.
        unembedding: the output kernel.
        targets_BT: int[B, T].
        weights_BT: weight of each position, 0 where there is no target.
        cfg: z-loss, label smoothing and chunk.

    Returns:
        Terms "loss" (in the loss with weight 1), "z_loss" (where asked for) and "accuracy" (a metric).
    """
    length = targets_BT.shape[1]
    smoothing = cfg.label_smoothing
    chunk = cfg.chunk or (length if targets_BT.size * unembedding.num_rows <= WHOLE else 128)

    def sums(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        loss, log_z, correct = token_losses(hidden, unembedding, targets, smoothing)
        weights = weights.astype(jnp.float32)
        return jnp.sum(loss * weights), jnp.sum(jnp.square(log_z) * weights), jnp.sum(correct * weights)

    loss, z_squared, correct = _in_chunks(sums, (hidden_BTD, targets_BT, weights_BT), chunk)
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
    """Compute the loss of each token.

    Args:
        hidden: float[..., D].
        unembedding: the output kernel.
        targets: int[...].
        label_smoothing: fraction of the target spread over the vocabulary.

    Returns:
        (cross-entropy, log Z, whether the largest logit is the target's), float32[...] each.
    """
    if isinstance(unembedding, AdaptiveUnembedding):
        return adaptive.token_losses(hidden, unembedding, targets, label_smoothing)
    y = logits(hidden, unembedding)
    log_z = jax.nn.logsumexp(y, axis=-1)
    # A comparison and a sum shard over the vocabulary; a gather would collect the logits first.
    is_target = jnp.arange(y.shape[-1]) == targets[..., None]
    target = jnp.sum(jnp.where(is_target, y, 0.0), axis=-1)
    loss = log_z - target
    if label_smoothing:
        is_id = jnp.arange(y.shape[-1]) < unembedding.vocab_size
        mean = jnp.sum(jnp.where(is_id, y, 0.0), axis=-1) / unembedding.vocab_size
        loss = (1 - label_smoothing) * loss + label_smoothing * (log_z - mean)
    return loss, log_z, target >= jnp.max(y, axis=-1)


def token_log_probs(
    hidden_BTD: jax.Array,
    unembedding: Unembedding | AdaptiveUnembedding,
    targets_BT: jax.Array,
    cfg: LossConfig,
) -> jax.Array:
    """Compute the log-probability of each target, without building all logits at once.

    Args:
        hidden_BTD: hidden states.
        unembedding: the output kernel.
        targets_BT: int[B, T].
        cfg: chunk.

    Returns:
        float32 [B, T].
    """
    length = targets_BT.shape[1]
    chunk = cfg.chunk or (length if targets_BT.size * unembedding.num_rows <= WHOLE else 128)

    def piece_log_probs(hidden: jax.Array, targets: jax.Array) -> jax.Array:
        return -token_losses(hidden, unembedding, targets)[0]

    if chunk >= length:
        return piece_log_probs(hidden_BTD, targets_BT)

    # Keeps the residuals of one piece at a time.
    @jax.checkpoint
    def step(carry: None, piece: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        return carry, piece_log_probs(*piece)

    pieces = (_split(hidden_BTD, chunk), _split(targets_BT, chunk))
    log_probs = jax.lax.scan(step, None, pieces)[1]
    return jnp.swapaxes(log_probs, 0, 1).reshape(targets_BT.shape[0], -1)[:, :length]


def soft_cross_entropy(
    hidden_BTD: jax.Array,
    unembedding: Unembedding,
    teacher_BTD: jax.Array,
    teacher_unembedding: Unembedding,
    weights_BT: jax.Array,
    temperature: float,
    cfg: LossConfig,
) -> Term:
    """Compute KL(p || q) in nats, summed over the weights (Hinton et al. 2015, section 2).

    q = softmax(y / temperature) of the student's logits y, and p that of the teacher's. The gradient goes
    to the student's hidden states and output kernel, not to the teacher.

    Args:
        hidden_BTD: the student's hidden states.
        unembedding: the student's output kernel.
        teacher_BTD: the teacher's hidden states, of a width of their own.
        teacher_unembedding: the teacher's output kernel, over the same vocabulary.
        weights_BT: weight of each position.
        temperature: above 0.
        cfg: chunk.

    Returns:
        A term that is in the loss with weight 1.
    """
    length = weights_BT.shape[1]
    num_logits = weights_BT.size * 2 * unembedding.num_rows
    vocab_size = unembedding.vocab_size

    def sums(hidden: jax.Array, teacher: jax.Array, weights: jax.Array) -> jax.Array:
        # Both in float32, the dtype of logits.
        log_q = jax.nn.log_softmax(logits(hidden, unembedding)[..., :vocab_size] / temperature)
        teacher_logits = jax.lax.stop_gradient(logits(teacher, teacher_unembedding)[..., :vocab_size])
        log_p = jax.nn.log_softmax(teacher_logits / temperature)
        divergences = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        return jnp.sum(divergences * weights.astype(jnp.float32))

    chunk = cfg.chunk or (length if num_logits <= WHOLE else 128)
    total = _in_chunks(sums, (hidden_BTD, teacher_BTD, weights_BT), chunk)
    return Term(total, jnp.sum(weights_BT.astype(jnp.float32)), 1.0)


def top_soft_cross_entropy(
    hidden_BTD: jax.Array,
    unembedding: Unembedding,
    ids_BTk: jax.Array,
    log_probs_BTk: jax.Array,
    weights_BT: jax.Array,
    temperature: float,
    cfg: LossConfig,
) -> Term:
    """Compute the divergence from a teacher of which the k largest log-probabilities are known.

    The outcomes are the k ids and "any other id", whose probability is what the k leave. The divergence is 0 where
    both models agree, and at most KL(p || q) of the whole vocabulary (data processing).

    Args:
        hidden_BTD: the student's hidden states.
        unembedding: the student's output kernel.
        ids_BTk: int[B, T, k], distinct ids at each position.
        log_probs_BTk: the teacher's log p of them, at the temperature.
        weights_BT: weight of each position.
        temperature: above 0.
        cfg: chunk.

    Returns:
        A term that is in the loss with weight 1.
    """
    length = weights_BT.shape[1]
    vocab_size = unembedding.vocab_size

    def sums(hidden: jax.Array, ids: jax.Array, log_p: jax.Array, weights: jax.Array) -> jax.Array:
        log_q = jax.nn.log_softmax(logits(hidden, unembedding)[..., :vocab_size] / temperature)
        log_q = jnp.take_along_axis(log_q, ids, axis=-1)
        named = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        p_rest = _rest(log_p)
        divergences = named + p_rest * (jnp.log(p_rest) - jnp.log(_rest(log_q)))
        return jnp.sum(divergences * weights.astype(jnp.float32))

    chunk = cfg.chunk or (length if weights_BT.size * unembedding.num_rows <= WHOLE else 128)
    total = _in_chunks(sums, (hidden_BTD, ids_BTk, log_probs_BTk, weights_BT), chunk)
    return Term(total, jnp.sum(weights_BT.astype(jnp.float32)), 1.0)


def top_log_probs(
    hidden_BTD: jax.Array, unembedding: Unembedding, count: int, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Compute the largest log-probabilities of each position, position by position.

    Args:
        hidden_BTD: hidden states.
        unembedding: the output kernel.
        count: k.
        temperature: above 0.

    Returns:
        (ids, log-probabilities at the temperature), int32 and float32 [B, T, k], the largest first.
    """
    vocab_size = unembedding.vocab_size

    def of_position(hidden_BD: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p = jax.nn.log_softmax(logits(hidden_BD, unembedding)[..., :vocab_size] / temperature)
        values, ids = jax.lax.top_k(log_p, count)
        return ids.astype(jnp.int32), values

    ids_TBk, values_TBk = jax.lax.map(of_position, jnp.swapaxes(hidden_BTD, 0, 1), batch_size=16)
    return jnp.swapaxes(ids_TBk, 0, 1), jnp.swapaxes(values_TBk, 0, 1)


def _rest(log_probs: jax.Array) -> jax.Array:
    """Return 1 - sum of probabilities over the last dim, not below what float32 can tell from 0."""
    return jnp.maximum(1 - jnp.sum(jnp.exp(log_probs), axis=-1), 1e-7)


def _in_chunks(sums: Callable[..., Any], arrays: Sequence[jax.Array], chunk: int) -> Any:
    """Sum sums(*pieces) over pieces of `chunk` positions of [B, T, ...] arrays, zero-padded at the end.

    Logits of a piece are rematerialised in the backward pass: only one piece of them exists at a time.
    """
    length = arrays[0].shape[1]
    if chunk >= length:
        return sums(*arrays)

    # Keeps the residuals of one piece at a time.
    @jax.checkpoint
    def add(total: Any, piece: tuple[jax.Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, sums(*piece)), None

    pieces = tuple(_split(x, chunk) for x in arrays)
    shapes = jax.eval_shape(sums, *(x[0] for x in pieces))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zero, pieces)[0]


def _split(x: jax.Array, chunk: int) -> jax.Array:
    """Return the pieces [pieces, B, chunk, ...] of an array [B, T, ...], zero-padded at the end."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % chunk)] + [(0, 0)] * (x.ndim - 2))
    return jnp.swapaxes(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 0, 1)
