"""cuDNN's attention with its softmax statistics kept, by private functions of jax in checked versions of it.

The public function hides the statistics that its backward kernel reads. A rematerialised layer that keeps the
output must then run the forward kernel again for them alone. Here both are tagged, so that
remat = "attention" keeps both. The public function is used with any other version of jax, see kernels/cudnn.py.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

CHECKED = ("0.10.2",)
"""Versions of jax whose private functions have the arguments that are passed here."""


class Settings(NamedTuple):
    """Static arguments of the two kernels."""

    scale: float
    """Multiplies the logits."""
    causal: bool
    """Whether keys after the query are hidden; the kernels skip them."""
    bias_gradient: bool
    """Whether the backward kernel writes the gradient of the bias; a mask needs none."""


def is_available() -> bool:
    """Whether the installed jax is a checked version."""
    return jax.__version__ in CHECKED


def attend(
    query_BTNH: jax.Array,
    key_BSGH: jax.Array,
    value_BSGH: jax.Array,
    bias_BNTS: jax.Array | None,
    settings: Settings,
) -> jax.Array:
    """Run the forward kernel once; its output and statistics are tagged "attention" for rematerialisation.

    Args:
        query_BTNH: bfloat16 or float16 queries.
        key_BSGH: keys.
        value_BSGH: values.
        bias_BNTS: added to the scaled logits, the mask included; B and N may be 1. None: nothing.
        settings: static arguments.

    Returns:
        float[B, T, N, H].
    """
    query, key, value, bias = jax.lax.stop_gradient((query_BTNH, key_BSGH, value_BSGH, bias_BNTS))
    output_BTNH, statistics_BNT = _forward(query, key, value, bias, settings)
    # Tagged before the gradient is attached: both are residuals of it, and kept once.
    output_BTNH = checkpoint_name(output_BTNH, "attention")
    statistics_BNT = checkpoint_name(statistics_BNT, "attention")
    return _attach_gradient(
        settings, query_BTNH, key_BSGH, value_BSGH, bias_BNTS, output_BTNH, statistics_BNT
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attach_gradient(
    settings: Settings,
    query_BTNH: jax.Array,
    key_BSGH: jax.Array,
    value_BSGH: jax.Array,
    bias_BNTS: jax.Array | None,
    output_BTNH: jax.Array,
    statistics_BNT: jax.Array,
) -> jax.Array:
    """Return the output, whose backward pass is the backward kernel on what the forward kernel wrote."""
    del settings, query_BTNH, key_BSGH, value_BSGH, bias_BNTS, statistics_BNT
    return output_BTNH


def _attach_fwd(settings: Settings, *arguments: jax.Array | None):
    return _attach_gradient(settings, *arguments), arguments


def _attach_bwd(settings: Settings, residuals: tuple, gradient_BTNH: jax.Array):
    query, key, value, bias, output, statistics = residuals
    gradients = _backward(query, key, value, bias, output, statistics, gradient_BTNH, settings)
    bias_gradient = gradients[3] if settings.bias_gradient else None
    # The output and the statistics have no gradient of their own: theirs is that of the arguments.
    return (*gradients[:3], bias_gradient, None, None)


_attach_gradient.defvjp(_attach_fwd, _attach_bwd)


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """Call the forward kernel: (output [B, T, N, H], float32 log-sum-exp of the logits [B, N, T])."""
    from jax._src.cudnn import fused_attention_stablehlo as private

    outputs: Any = private.dot_product_attention(
        query,
        key,
        value,
        bias,
        scale=settings.scale,
        mask_type=_mask_type(settings),
        return_residual=True,
    )
    return outputs


def _backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    output: jax.Array,
    statistics: jax.Array,
    gradient: jax.Array,
    settings: Settings,
) -> list[jax.Array]:
    """Call the backward kernel: the gradients of query, key and value, and of the bias where asked for."""
    from jax._src.cudnn import fused_attention_stablehlo as private

    # Stands for lengths, offsets and page tables that are not given, as in jax's own call.
    absent = jnp.zeros(0, query.dtype)
    return private._dot_product_attention_bwd_p_wrapper.bind(
        query,
        key,
        value,
        absent if bias is None else bias,
        *[absent] * 6,
        statistics,
        output,
        gradient,
        scale=settings.scale,
        seed=42,  # of the dropout, which is off
        dropout_rate=0.0,
        variadic_args=(bias is not None, settings.bias_gradient),
        mask_type=_mask_type(settings),
        layout=private.AttentionLayout.BTNH.value,
        sliding_window_length=None,
    )


def _mask_type(settings: Settings):
    from jax._src.cudnn import fused_attention_stablehlo as private

    return private.MaskType.CAUSAL if settings.causal else private.MaskType.NO_MASK
