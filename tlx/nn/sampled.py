"""A softmax over each target and a sample of other ids, for vocabularies too large to sum over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tlx.nn.embed import Unembedding
from tlx.nn.weight_formats import take_rows


@functools.cache
def log_expected_counts(vocab_size: int, num_sampled: int) -> np.ndarray:
    """Compute the log of how often each id is in a sample of `num_sampled` distinct ids, float32[V].

    Ids are drawn by log-uniform rank, P(k) = log((k + 2) / (k + 1)) / log(V + 1), until enough are
    distinct. After n draws an id is among them with probability 1 - (1 - P)^n; n is such that these sum to
    the sample's size.
    """
    if num_sampled >= vocab_size:
        return np.zeros(vocab_size, np.float32)
    log_missed = np.log1p(-np.exp(log_probabilities(vocab_size).astype(np.float64)))
    # Bisection of n on a log scale.
    low = 1.0
    high = 1e15
    for _ in range(200):
        middle = (low * high) ** 0.5
        if -np.expm1(middle * log_missed).sum() < num_sampled:
            low = middle
        else:
            high = middle
    return np.log(-np.expm1(low * log_missed)).astype(np.float32)


def log_probabilities(vocab_size: int) -> np.ndarray:
    """Compute log P of the log-uniform distribution over ranks, float64[V]."""
    ranks = np.arange(vocab_size)
    return np.log(np.log1p(1 / (ranks + 1)) / np.log(vocab_size + 1))


def sampled_losses(
    hidden_BTD: jax.Array,
    unembedding: Unembedding,
    targets_BT: jax.Array,
    keys_B: jax.Array,
    num_sampled: int,
) -> jax.Array:
    """Compute -log p of each target among itself and its row's sample (Jean et al. 2015).

    The log of an id's expected count is subtracted from its logit. A sampled id that is the target counts
    once. Each row draws its own ids, so that microbatches and meshes change nothing.

    Args:
        hidden_BTD: hidden states.
        unembedding: the output kernel.
        targets_BT: int[B, T].
        keys_B: one PRNG key for each row.
        num_sampled: number of sampled ids K, at most the vocabulary's size.

    Returns:
        float32[B, T], in nats.
    """
    size = unembedding.vocab_size
    num_sampled = min(num_sampled, size)
    log_counts = jnp.asarray(log_expected_counts(size, num_sampled), jnp.float32)
    log_p = jnp.asarray(log_probabilities(size), jnp.float32)

    def row_losses(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        hidden_TD, targets_T, key = row
        # The largest of log P plus Gumbel noise are a sample without replacement.
        _, drawn_K = jax.lax.top_k(log_p + jax.random.gumbel(key, (size,)), num_sampled)
        others_TK = _logits_of_ids(hidden_TD, unembedding, drawn_K) - log_counts[drawn_K]
        # The target is in the sum once already.
        others_TK = jnp.where(drawn_K[None] == targets_T[:, None], -jnp.inf, others_TK)
        kernel = take_rows(unembedding.kernel, targets_T).astype(hidden_TD.dtype)
        target_T = jnp.sum((hidden_TD * kernel).astype(jnp.float32), axis=-1)
        if unembedding.bias is not None:
            target_T = target_T + jnp.take(unembedding.bias, targets_T).astype(jnp.float32)
        target_T = target_T - log_counts[targets_T]
        return jax.nn.logsumexp(jnp.concatenate([target_T[:, None], others_TK], 1), axis=-1) - target_T

    # Row by row and rematerialised: the sampled kernels of all rows together would not fit.
    return jax.lax.map(jax.checkpoint(row_losses), (hidden_BTD, targets_BT, keys_B))


def _logits_of_ids(hidden_TD: jax.Array, unembedding: Unembedding, ids_K: jax.Array) -> jax.Array:
    """Logits of some ids, float32[T, K]."""
    kernel = take_rows(unembedding.kernel, ids_K).astype(hidden_TD.dtype)
    y = jnp.einsum("td,kd->tk", hidden_TD, kernel, preferred_element_type=jnp.float32)
    if unembedding.bias is None:
        return y
    return y + jnp.take(unembedding.bias, ids_K).astype(jnp.float32)
