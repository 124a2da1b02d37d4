"""What adaptation adds inside a block besides low-rank matrices (linear.py): bottlenecks and prefixes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.config import BlockConfig
from tlx.nn.linear import Linear
from tlx.nn.mask import Mask, dense
from tlx.parallel.sharding import logical

# So small that the layer is close to the identity at the start (Houlsby et al. 2019, 3.6).
_STDDEV = 1e-3


class BottleneckAdapter(nn.Module):
    """y + gelu(y W_down + b) W_up + b, a bottleneck that begins as good as nothing (Houlsby et al. 2019)."""

    cfg: BlockConfig

    @nn.compact
    def __call__(self, y_BTD: jax.Array) -> jax.Array:
        cfg, names = self.cfg, ("embed", None)
        size, rest = (cfg.adapters.bottleneck_dim,), (_STDDEV, True, cfg.dtype, cfg.param_dtype)
        h = jax.nn.gelu(Linear((cfg.width,), size, names, *rest, name="down")(y_BTD))
        return y_BTD + Linear(size, (cfg.width,), names[::-1], *rest, name="up")(h)


class Prefix(nn.Module):
    """Keys and values that every query of a layer sees before those of the text (Li and Liang 2021).

    They are parameters themselves, as in P-tuning v2 (Liu et al. 2022); the network that made them from a
    smaller table in the first paper is left out. They have no position, and no bias by it.
    """

    cfg: BlockConfig

    @nn.compact
    def __call__(
        self,
        query_BTNH: jax.Array,
        key_BSGH: jax.Array,
        value_BSGH: jax.Array,
        mask: Mask,
        bias: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array, Mask, jax.Array | None]:
        """(keys, values, mask, bias) of P + S places; the mask is whole, so that plain einsums compute it."""
        cfg, size, (batch, length) = self.cfg, self.cfg.adapters.prefix_length, query_BTNH.shape[:2]
        init = logical(nn.initializers.normal(cfg.init.stddev), (None, "kv_heads", "head_dim"))
        shape, dtype = (size, cfg.num_kv_heads, cfg.head_dim), jnp.dtype(cfg.param_dtype)

        def joined(name: str, rest: jax.Array) -> jax.Array:
            own = self.param(name, init, shape, dtype).astype(rest.dtype)
            return jnp.concatenate([jnp.broadcast_to(own, (batch, *shape)), rest], axis=1)

        visible = dense(mask, length, key_BSGH.shape[1])
        if visible is not None:
            visible = jnp.broadcast_to(visible[:, 0], (batch, length, key_BSGH.shape[1]))
            visible = jnp.pad(visible, ((0, 0), (0, 0), (size, 0)), constant_values=True)
        if bias is not None:
            bias = jnp.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(size, 0)])
        return joined("key", key_BSGH), joined("value", value_BSGH), Mask(None, None, visible=visible), bias
