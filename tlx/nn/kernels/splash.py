"""Splash attention: the Pallas kernel for TPU that skips what the mask hides."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from tlx.base.errors import ConfigError
from tlx.nn.mask import Mask
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
    """As kernels/xla.py, without bias, dropout and cap; each device works on its own rows and heads.

    Queries and keys of unlike number are those of cross-attention: ValueError where such a mask is causal
    or has a window (a cache is read by kernels/xla.py), ConfigError where the keys are no multiple of 128.
    """
    del bias, dropout_rate, keys_B, site, softcap
    num_queries, num_keys = query_BTNH.shape[1], key_BSGH.shape[1]
    if num_queries != num_keys and (mask.causal or mask.window):
        raise ValueError(f"splash: {num_queries} queries of {num_keys} keys, causal or in a window")
    if num_keys % 128:
        raise ConfigError(
            f"model.execution.attention = 'splash' cannot be used: {num_keys} keys, no multiple of 128; "
            "choose 'xla', or another data.sequence_length"
        )
    segments = [
        jnp.ones(x.shape[:2], jnp.int32) if given is None else given
        for x, given in ((query_BTNH, mask.query_segments), (key_BSGH, mask.key_segments))
    ]
    run = functools.partial(_local, causal=mask.causal, window=mask.window)
    query_spec = spec_in_use(("batch", None, "heads", None), query_BTNH.shape)
    if query_spec is not None:
        key_spec = spec_in_use(("batch", None, "kv_heads", None), key_BSGH.shape)
        rows = [spec_in_use(("batch", None), x.shape) for x in segments]
        specs = (query_spec, key_spec, key_spec, *rows)
        run = jax.shard_map(run, in_specs=specs, out_specs=query_spec, check_vma=False)
    return run(query_BTNH * jnp.asarray(scale, query_BTNH.dtype), key_BSGH, value_BSGH, *segments)


def _blocks(num_queries: int, num_keys: int) -> splash.BlockSizes:
    """The largest tiles up to 512 that divide both lengths: at the kernel's own 128 its loops cost more."""
    query, key = (max(n for n in (128, 256, 512) if size % n == 0) for size in (num_queries, num_keys))
    return splash.BlockSizes(
        block_q=query,
        block_kv=key,
        block_kv_compute=key,
        block_q_dkv=query,
        block_kv_dkv=key,
        block_kv_dkv_compute=key,
        block_q_dq=query,
        block_kv_dq=key,
    )


def _local(
    query_BTNH: jax.Array,
    key_BSGH: jax.Array,
    value_BSGH: jax.Array,
    query_segments_BT: jax.Array,
    key_segments_BS: jax.Array,
    causal: bool,
    window: int,
) -> jax.Array:
    num_heads, sizes = query_BTNH.shape[2], (query_BTNH.shape[1], key_BSGH.shape[1])
    repeats = num_heads // key_BSGH.shape[2]
    if window:
        shape = masks.LocalMask(sizes, (window - 1, 0 if causal else window - 1), offset=0)
    else:
        shape = masks.CausalMask(sizes) if causal else masks.FullMask(sizes)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([shape] * num_heads),
        block_sizes=_blocks(*sizes),
        residual_checkpoint_name="attention",
    )
    heads_first = [
        jnp.swapaxes(x, 1, 2)
        for x in (query_BTNH, jnp.repeat(key_BSGH, repeats, 2), jnp.repeat(value_BSGH, repeats, 2))
    ]
    ids = splash.SegmentIds(query_segments_BT, key_segments_BS)
    return jnp.swapaxes(jax.vmap(kernel)(*heads_first, segment_ids=ids), 1, 2)
