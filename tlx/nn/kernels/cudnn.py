"""cuDNN's fused attention for NVIDIA GPUs."""

import functools

import jax
import jax.numpy as jnp

from tlx.nn.kernels import cudnn_statistics
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.nn.mask import dense
from tlx.nn.relative import RelativeTerms
from tlx.parallel.sharding import spec_in_use

# Logical names of the dims of each argument. Rows and heads may be sharded, the rest is whole on each device.
_DIMS: dict[str, tuple[str | None, ...]] = {
    "query": ("batch", None, "heads", None),
    "key": ("batch", None, "kv_heads", None),
    "value": ("batch", None, "kv_heads", None),
    "mask": ("batch", None, None, None),
    "bias": ("batch", "heads", None, None),
}


def attend(inputs: AttentionInputs) -> jax.Array:
    """Compute what kernels/xla.py does, in bfloat16 or float16, without dropout and softcap.

    Args:
        inputs: dropout_rate and softcap must be 0 (kernels/choice.py holds this). bias: float[1, N, T, S],
            [devices, N, T, S] with one bias for all rows of a device, or None.

    Returns:
        float[B, T, N, H].
    """
    mask = inputs.mask
    num_queries = inputs.query_BTNH.shape[1]
    num_keys = inputs.key_BSGH.shape[1]
    arrays = {"query": inputs.query_BTNH, "key": inputs.key_BSGH, "value": inputs.value_BSGH}
    # A causal mask is left to the kernel, which then skips the upper triangle; segments and windows are dense.
    starts_at_zero = isinstance(mask.query_start, int) and mask.query_start == 0
    causal = mask.causal and mask.prefix is None and starts_at_zero
    visible = dense(mask._replace(causal=mask.causal and not causal), num_queries, num_keys)
    if visible is not None:
        arrays["mask"] = visible
    if inputs.bias is not None:
        assert not isinstance(inputs.bias, RelativeTerms), "relative terms must be laid out over the keys"
        # The kernel adds the bias after scaling, ours is added before.
        arrays["bias"] = (inputs.bias * inputs.scale).astype(inputs.query_BTNH.dtype)
    run = functools.partial(_attend_on_device, scale=inputs.scale, causal=causal)
    specs = {name: spec_in_use(_DIMS[name], x.shape) for name, x in arrays.items()}
    if specs["query"] is not None:
        # Each device runs the kernel on its own rows and heads: the kernel's own partitioning refuses a bias
        # that the compiler has sharded.
        run = jax.shard_map(run, in_specs=(specs,), out_specs=specs["query"], check_vma=False)
    return run(arrays)


def _attend_on_device(arrays: dict[str, jax.Array], scale: float, causal: bool) -> jax.Array:
    """Run the kernel on one device's rows and heads."""
    visible = arrays.get("mask")
    if visible is not None:
        # The kernel wants a mask for every row.
        visible = jnp.broadcast_to(visible, (arrays["query"].shape[0], *visible.shape[1:]))
    bias = arrays.get("bias")
    if cudnn_statistics.is_available():
        settings = cudnn_statistics.Settings(scale, causal, bias_gradient=bias is not None)
        return cudnn_statistics.attend(
            arrays["query"], arrays["key"], arrays["value"], _combined(bias, visible, arrays), settings
        )
    return jax.nn.dot_product_attention(
        arrays["query"],
        arrays["key"],
        arrays["value"],
        bias,
        visible,
        scale=scale,
        is_causal=causal,
        implementation="cudnn",
    )


def _combined(
    bias: jax.Array | None, visible: jax.Array | None, arrays: dict[str, jax.Array]
) -> jax.Array | None:
    """Add the bias and the mask, which hides keys by a number that is large but finite in half precision."""
    if visible is None:
        return bias
    dtype = arrays["query"].dtype
    # The numbers of jax's own call: cuDNN subtracts two of them, which must not overflow.
    hidden = jnp.asarray(-(2.0**41) if dtype == jnp.bfloat16 else -(2.0**15), dtype)
    mask = jnp.where(visible, jnp.zeros((), dtype), hidden)
    return mask if bias is None else bias + mask
