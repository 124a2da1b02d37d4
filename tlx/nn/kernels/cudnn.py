"""Fused attention of cuDNN, through jax.nn.dot_product_attention."""

import functools

import jax
import jax.numpy as jnp

from tlx.nn.mask import Mask, dense
from tlx.parallel.sharding import spec_in_use


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
    """As kernels/xla.py; bfloat16 or float16 only, without dropout and cap (see kernels/choice.py).

    bias: float[1, N, T, S], or [devices, N, T, S] with one for all rows of each. Each device works on its
    own rows and heads: the kernel's own partitioning refuses a bias that the compiler has split.
    """
    del dropout_rate, keys_B, site, softcap
    num_queries, num_keys = query_BTNH.shape[1], key_BSGH.shape[1]
    plain = mask.query_segments is None and mask.visible is None and not mask.window
    if plain and isinstance(mask.query_start, int) and mask.query_start == 0:
        visible, causal = None, mask.causal
    else:
        visible, causal = dense(mask, num_queries, num_keys), False
    names: dict[str, tuple[str | None, ...]] = {
        "query": ("batch", None, "heads", None),
        "key": ("batch", None, "kv_heads", None),
        "value": ("batch", None, "kv_heads", None),
        "mask": ("batch", None, None, None),
        "bias": ("batch", "heads", None, None),
    }
    arrays = {"query": query_BTNH, "key": key_BSGH, "value": value_BSGH}
    if visible is not None:
        arrays["mask"] = visible
    if bias is not None:
        arrays["bias"] = (bias * scale).astype(query_BTNH.dtype)
    run = functools.partial(_local, scale=scale, causal=causal)
    specs = {name: spec_in_use(names[name], x.shape) for name, x in arrays.items()}
    if specs["query"] is not None:
        run = jax.shard_map(run, in_specs=(specs,), out_specs=specs["query"], check_vma=False)
    return run(arrays)


def _local(arrays: dict[str, jax.Array], scale: float, causal: bool) -> jax.Array:
    """One device's rows and heads."""
    if "mask" in arrays:
        visible = arrays["mask"]
        arrays["mask"] = jnp.broadcast_to(visible, (arrays["query"].shape[0], *visible.shape[1:]))
    return jax.nn.dot_product_attention(**arrays, scale=scale, is_causal=causal, implementation="cudnn")
