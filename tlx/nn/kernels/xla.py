"""Attention as two einsums: runs on every platform and supports every option."""

import jax
import jax.numpy as jnp

from tlx.nn.dropout import dropout
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.nn.mask import dense
from tlx.nn.relative import RelativeTerms

# Finite, so that the softmax of a row with nothing visible has no NaN.
MASKED = -1e30


def attend(inputs: AttentionInputs) -> jax.Array:
    """Compute softmax(cap(scale (q k^T + bias))) v per head (Vaswani et al. 2017, eq. 1).

    cap(x) = softcap tanh(x / softcap) where a softcap is given. The softmax is in float32.

    Args:
        inputs: bias: float[B or 1, N, T, S] or None.

    Returns:
        float[B, T, N, H] in the dtype of the values.
    """
    query_BTNH = inputs.query_BTNH
    value_BSGH = inputs.value_BSGH
    batch, num_queries, num_heads, head_dim = query_BTNH.shape
    num_keys, num_kv_heads = inputs.key_BSGH.shape[1:3]
    group_size = num_heads // num_kv_heads
    # Grouped queries: keys and values are read once per group instead of being repeated for each query head. A
    # group of one has no dim: the gradient of the keys would contract it together with the queries, and the CPU
    # compiler would transpose the gradient of the scores in memory first.
    group = "r" if group_size > 1 else ""
    query = query_BTNH
    if group:
        query = query.reshape(batch, num_queries, num_kv_heads, group_size, head_dim)
    # float32 logits: the softmax of bfloat16 ones loses accuracy.
    score_dims = f"btg{group}h,bsgh->bg{group}ts"
    logits = jnp.einsum(score_dims, query, inputs.key_BSGH, preferred_element_type=jnp.float32)
    logits = logits.reshape(batch, num_heads, num_queries, num_keys)
    if inputs.bias is not None:
        assert not isinstance(inputs.bias, RelativeTerms), "relative terms must be laid out over the keys"
        logits = logits + inputs.bias.astype(jnp.float32)
    if inputs.scale != 1.0:
        logits = logits * inputs.scale
    if inputs.softcap:
        logits = inputs.softcap * jnp.tanh(logits / inputs.softcap)
    visible = dense(inputs.mask, num_queries, num_keys)
    if visible is not None:
        logits = jnp.where(visible, logits, MASKED)
    # The product with the values is in their dtype, at the speed of the matrix unit.
    weights = jax.nn.softmax(logits, axis=-1).astype(value_BSGH.dtype)
    if inputs.mask.visible is not None:
        assert visible is not None
        # A permutation may let a query see nothing; its softmax is uniform over masked keys and must become
        # 0.
        weights = jnp.where(visible, weights, 0)
    weights = dropout(weights, inputs.dropout_rate, inputs.keys_B, inputs.site)
    if group:
        weights = weights.reshape(batch, num_kv_heads, group_size, num_queries, num_keys)
    output_dims = f"bg{group}ts,bsgh->btg{group}h"
    return jnp.einsum(output_dims, weights, value_BSGH).reshape(query_BTNH.shape)
