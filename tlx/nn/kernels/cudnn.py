"""Fused attention of cuDNN, through jax.nn.dot_product_attention."""

import jax
import jax.numpy as jnp

from tlx.nn.mask import Mask, dense


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
    """As kernels/xla.py; bfloat16 or float16 only, without dropout and cap (see kernels/choice.py)."""
    del dropout_rate, keys_B, site, softcap
    num_queries, num_keys = query_BTNH.shape[1], key_BSGH.shape[1]
    plain = mask.query_segments is None and mask.visible is None and not mask.window
    if plain and isinstance(mask.query_start, int) and mask.query_start == 0:
        visible, causal = None, mask.causal
    else:
        visible, causal = dense(mask, num_queries, num_keys), False
    if bias is not None:
        bias = (bias * scale).astype(query_BTNH.dtype)
    if visible is not None:
        visible = jnp.broadcast_to(visible, (query_BTNH.shape[0], *visible.shape[1:]))
    return jax.nn.dot_product_attention(
        query_BTNH,
        key_BSGH,
        value_BSGH,
        bias=bias,
        mask=visible,
        scale=scale,
        is_causal=causal,
        implementation="cudnn",
    )
