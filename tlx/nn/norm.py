"""Normalisation over the last dim, in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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
        if self.cfg.kind == "layernorm":
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.cfg.eps)
        y = y * (scale.astype(jnp.float32) + float(self.cfg.unit_offset))
        if self.cfg.kind == "layernorm" and self.cfg.bias:
            bias = self.param("bias", logical(nn.initializers.zeros_init(), ("norm",)), (self.width,), dtype)
            y = y + bias.astype(jnp.float32)
        return y.astype(x.dtype)
