"""Normalisation over the last dim, in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tlx.base.platform import platform
from tlx.nn.config import NormConfig
from tlx.parallel.sharding import logical


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016, eq. 3-4) or RMSNorm (Zhang and Sennrich 2019, eq. 4) of x[..., D].

    Or, with `cfg.kind` "affine", scale and bias without statistics (Sun et al. 2020, 3.3).
    """

    cfg: NormConfig
    """Which one, and its details."""

    width: int
    """Size of the normalised dim, D."""

    param_dtype: str = "float32"
    """Of scale and bias."""

    num_heads: int = 0
    """Size of the dim before it, N, where each head has a scale of its own and none a bias; 0: one scale."""

    has_scale: bool = True
    """Whether there are scale and bias; False: statistics alone."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise x; the result has its dtype."""
        cfg = self.cfg
        if not self.has_scale:
            return self._normalised(x, x.astype(jnp.float32)).astype(x.dtype)
        dtype = jnp.dtype(self.param_dtype)
        # With unit_offset the factor is 1 + scale: weight decay then pulls it to 1 and not to 0.
        init = nn.initializers.zeros_init() if cfg.unit_offset else nn.initializers.ones_init()
        shape = (self.num_heads, self.width) if self.num_heads else (self.width,)
        scale = self.param("scale", logical(init, ("heads", "norm")[-len(shape) :]), shape, dtype)
        y = x.astype(jnp.float32)
        if cfg.kind != "affine":
            y = self._normalised(x, y)
        y = y * (scale.astype(jnp.float32) + float(cfg.unit_offset))
        if cfg.kind != "rmsnorm" and cfg.bias and not self.num_heads:
            bias = self.param("bias", logical(nn.initializers.zeros_init(), ("norm",)), (self.width,), dtype)
            y = y + bias.astype(jnp.float32)
        return y.astype(x.dtype)

    def _normalised(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Divide y, which is x in float32, by its root mean square; a LayerNorm subtracts the mean first."""
        is_layernorm = self.cfg.kind == "layernorm"
        if is_layernorm and x.dtype == jnp.bfloat16 and platform() == "tpu":
            # Both statistics in the pass that computes x, where the variance would need a second one.
            # E[x^2] - E[x]^2 is safe here: the square of a bfloat16 is exact in float32.
            square = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
            mean = checkpoint_name(jnp.mean(y, axis=-1, keepdims=True), "statistics")
            square = jnp.maximum(square - jnp.square(mean), 0.0)
            y = y - mean
        else:
            if is_layernorm:
                y = y - checkpoint_name(jnp.mean(y, axis=-1, keepdims=True), "statistics")
            square = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
        return y * checkpoint_name(jax.lax.rsqrt(square + self.cfg.eps), "statistics")
