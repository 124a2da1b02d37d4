"""Splash attention: JAX's Pallas kernel for TPU, which skips blocks that the mask hides."""

import functools
from typing import cast

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from tlx.base.errors import ConfigError
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.parallel.sharding import spec_in_use


def attend(inputs: AttentionInputs) -> jax.Array:
    """Compute what kernels/xla.py does, without bias, dropout and softcap.

    Different numbers of queries and keys are cross-attention's; a cache is read by kernels/xla.py.

    Args:
        inputs: bias, dropout_rate and softcap must be None, 0 and 0 (kernels/choice.py holds this). T and S
            are multiples of 128.

    Returns:
        float[B, T, N, H].

    Raises:
        ValueError: if T differs from S and the mask is causal or has a window.
        ConfigError: if S is no multiple of 128.
    """
    query_BTNH = inputs.query_BTNH
    key_BSGH = inputs.key_BSGH
    mask = inputs.mask
    num_queries = query_BTNH.shape[1]
    num_keys = key_BSGH.shape[1]
    if num_queries != num_keys and (mask.causal or mask.window):
        raise ValueError(f"splash: {num_queries} queries of {num_keys} keys, causal or in a window")
    if num_keys % 128:
        raise ConfigError(
            f"model.execution.attention = 'splash' cannot be used: {num_keys} keys, no multiple of 128; "
            "choose 'xla', or another data.sequence_length"
        )
    query_segments = _segments(mask.query_segments, query_BTNH)
    key_segments = _segments(mask.key_segments, key_BSGH)
    run = functools.partial(_attend_on_device, causal=mask.causal, window=mask.window)
    query_spec = spec_in_use(("batch", None, "heads", None), query_BTNH.shape)
    if query_spec is not None:
        # The compiler cannot partition a Pallas call: each device runs it on its own rows and heads.
        key_spec = spec_in_use(("batch", None, "kv_heads", None), key_BSGH.shape)
        segment_specs = [spec_in_use(("batch", None), x.shape) for x in (query_segments, key_segments)]
        specs = (query_spec, key_spec, key_spec, *segment_specs)
        run = jax.shard_map(run, in_specs=specs, out_specs=query_spec, check_vma=False)
    # The kernel has no scale of its own.
    scaled_query = query_BTNH * jnp.asarray(inputs.scale, query_BTNH.dtype)
    return run(scaled_query, key_BSGH, inputs.value_BSGH, query_segments, key_segments)


def _segments(segments: jax.Array | None, x: jax.Array) -> jax.Array:
    """Segments int[B, T] of x[B, T, ...]; one segment for all where none are given."""
    return jnp.ones(x.shape[:2], jnp.int32) if segments is None else segments


def _block_sizes(num_queries: int, num_keys: int) -> splash.BlockSizes:
    """The largest tiles up to 512 that divide both lengths: at the default of 128 the loops cost more."""
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


def _attend_on_device(
    query_BTNH: jax.Array,
    key_BSGH: jax.Array,
    value_BSGH: jax.Array,
    query_segments_BT: jax.Array,
    key_segments_BS: jax.Array,
    causal: bool,
    window: int,
) -> jax.Array:
    """Run the kernel on one device's rows and heads."""
    num_heads = query_BTNH.shape[2]
    sizes = (query_BTNH.shape[1], key_BSGH.shape[1])
    group_size = num_heads // key_BSGH.shape[2]
    if window:
        shape = masks.LocalMask(sizes, (window - 1, 0 if causal else window - 1), offset=0)
    elif causal:
        shape = masks.CausalMask(sizes)
    else:
        shape = masks.FullMask(sizes)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([shape] * num_heads),
        block_sizes=_block_sizes(*sizes),
        # The kernel tags what its backward pass reads, so that remat = "attention" keeps it.
        residual_checkpoint_name="attention",
    )
    # The kernel wants [N, T, H] of one row, and as many key heads as query heads.
    heads_first = [
        jnp.swapaxes(x, 1, 2)
        for x in (query_BTNH, jnp.repeat(key_BSGH, group_size, 2), jnp.repeat(value_BSGH, group_size, 2))
    ]
    segment_ids = splash.SegmentIds(query_segments_BT, key_segments_BS)
    output = cast(jax.Array, jax.vmap(kernel)(*heads_first, segment_ids=segment_ids))
    return jnp.swapaxes(output, 1, 2)
