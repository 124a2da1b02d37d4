"""A convolution over the tokens, whose output joins the first layer's (DeBERTa v2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.config import BlockConfig
from tlx.nn.dropout import dropout
from tlx.nn.feedforward import ACTIVATIONS
from tlx.nn.norm import Norm
from tlx.parallel.sharding import logical

SITE = 2  # of dropout, beside those of embed.py


class Convolution(nn.Module):
    """LN(y + act(conv(x))) of the embeddings x and the first layer's output y, [B, T, D]; padding is 0.

    It runs over the places of a row: documents that are packed next to each other touch.
    """

    cfg: BlockConfig
    kernel_size: int

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, y_BTD: jax.Array, segments_BT: jax.Array, keys_B: jax.Array | None
    ) -> jax.Array:
        cfg = self.cfg
        real = (segments_BT > 0)[..., None]
        init = logical(nn.initializers.normal(cfg.init.stddev), (None, "embed", None))
        shape, dtype = (self.kernel_size, cfg.width, cfg.width), jnp.dtype(cfg.param_dtype)
        kernel = self.param("kernel", init, shape, dtype).astype(x_BTD.dtype)
        bias = self.param("bias", logical(nn.initializers.zeros_init(), ("norm",)), (cfg.width,), dtype)
        z_BTD = jax.lax.conv_general_dilated(
            jnp.where(real, x_BTD, 0), kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        z_BTD = dropout(jnp.where(real, z_BTD + bias.astype(z_BTD.dtype), 0), cfg.dropout, keys_B, SITE)
        z_BTD = ACTIVATIONS[cfg.feedforward.activation](z_BTD)
        return Norm(cfg.norm, cfg.width, cfg.param_dtype, name="norm")(y_BTD + z_BTD)
