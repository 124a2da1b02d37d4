"""Normalisation over the last dim, in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tlx.base.platform import platform
from tlx.nn.config import NormConfig
from tlx.parallel.sharding import logical


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016, eq. 3-4) or RMSNorm (Zhang and Sennrich 2019, eq. 4) of x[..., D]."""

    cfg: NormConfig
    width: int
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.param_dtype)
        init = nn.initializers.zeros_init() if self.cfg.unit_offset else nn.initializers.ones_init()
        scale = self.param("scale", logical(init, ("norm",)), (self.width,), dtype)
        y = x.astype(jnp.float32)
        # On a TPU both statistics come with the pass that makes x: a bfloat16's square is exact in float32.
        at_once = self.cfg.kind == "layernorm" and x.dtype == jnp.bfloat16 and platform() == "tpu"
        square = jnp.mean(jnp.square(y), axis=-1, keepdims=True) if at_once else None
        if self.cfg.kind == "layernorm":
            mean = checkpoint_name(jnp.mean(y, axis=-1, keepdims=True), "statistics")
            square = jnp.maximum(square - jnp.square(mean), 0.0) if at_once else None
            y = y - mean
        square = jnp.mean(jnp.square(y), axis=-1, keepdims=True) if square is None else square
        y = y * checkpoint_name(jax.lax.rsqrt(square + self.cfg.eps), "statistics")
        y = y * (scale.astype(jnp.float32) + float(self.cfg.unit_offset))
        if self.cfg.kind == "layernorm" and self.cfg.bias:
            bias = self.param("bias", logical(nn.initializers.zeros_init(), ("norm",)), (self.width,), dtype)
            y = y + bias.astype(jnp.float32)
        return y.astype(x.dtype)
