"""Attention as two einsums: runs everywhere and supports everything."""

import jax
import jax.numpy as jnp

from tlx.nn.dropout import dropout
from tlx.nn.mask import Mask, dense

MASKED = -1e30  # finite, so that a row with nothing visible has no NaN


def attend(
    query_BTNH: jax.Array,
    key_BSGH: jax.Array,
    value_BSGH: jax.Array,
    mask: Mask,
    bias: jax.Array | None,
    scale: float,
    dropout_rate: float = 0.0,
    keys_B: jax.Array | None = None,
    site: int = 0,
    softcap: float = 0.0,
) -> jax.Array:
    """softmax(cap(scale * (q k^T + bias))) v per head, [B, T, N, H] (Vaswani et al. 2017, eq. 1).

    N is a multiple of G: query head n reads key head n // (N / G). bias: float[B or 1, N, T, S].
    cap(x) = softcap * tanh(x / softcap) where one is given. Softmax is in float32.
    """
    batch, num_queries, num_heads, head_dim = query_BTNH.shape
    num_keys, kv_heads = key_BSGH.shape[1:3]
    grouped = (batch, num_queries, kv_heads, num_heads // kv_heads, head_dim)
    query = query_BTNH.reshape(grouped)
    logits = jnp.einsum("btgrh,bsgh->bgrts", query, key_BSGH, preferred_element_type=jnp.float32)
    logits = logits.reshape(batch, num_heads, num_queries, num_keys)
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    if scale != 1.0:
        logits = logits * scale
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    visible = dense(mask, num_queries, num_keys)
    if visible is not None:
        logits = jnp.where(visible, logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(value_BSGH.dtype)
    if mask.visible is not None:
        # A permutation may let a query see nothing, and then it must not see everything.
        weights = jnp.where(visible, weights, 0)
    weights = dropout(weights, dropout_rate, keys_B, site)
    weights = weights.reshape(batch, kv_heads, num_heads // kv_heads, num_queries, num_keys)
    return jnp.einsum("bgrts,bsgh->btgrh", weights, value_BSGH).reshape(query_BTNH.shape)
