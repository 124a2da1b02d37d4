"""A convolution over the tokens, whose output joins the first layer's (DeBERTa v2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.config import BlockConfig
from tlx.nn.dropout import CONVOLUTION, dropout
from tlx.nn.feedforward import ACTIVATIONS
from tlx.nn.norm import Norm
from tlx.parallel.sharding import logical


class Convolution(nn.Module):
    """LN(y + act(conv(x))) of the embeddings x and the first layer's output y, [B, T, D].

    It runs over the positions of a row: packed documents that lie next to each other touch.
    """

    cfg: BlockConfig
    """The layer that it joins."""

    kernel_size: int
    """Positions that each output reads."""

    activation: str = ""
    """Name in ACTIVATIONS; "": feedforward.activation."""

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, y_BTD: jax.Array, segments_BT: jax.Array, keys_B: jax.Array | None
    ) -> jax.Array:
        """Add the convolution of x to y.

        Args:
            x_BTD: embeddings.
            y_BTD: the first layer's output.
            segments_BT: 0 is padding, which counts as zeros.
            keys_B: one PRNG key for each row; None: no dropout.

        Returns:
            float[B, T, D].
        """
        cfg = self.cfg
        is_token = (segments_BT > 0)[..., None]
        dtype = jnp.dtype(cfg.param_dtype)
        init = logical(nn.initializers.normal(cfg.init.stddev), (None, "embed", None))
        shape = (self.kernel_size, cfg.width, cfg.width)
        kernel = self.param("kernel", init, shape, dtype).astype(x_BTD.dtype)
        bias = self.param("bias", logical(nn.initializers.zeros_init(), ("norm",)), (cfg.width,), dtype)
        z_BTD = jax.lax.conv_general_dilated(
            # Padding reads as zeros, as beyond the ends of the row.
            jnp.where(is_token, x_BTD, 0),
            kernel,
            (1,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        z_BTD = jnp.where(is_token, z_BTD + bias.astype(z_BTD.dtype), 0)
        # Dropout comes before the activation here, as in microsoft/DeBERTa.
        z_BTD = dropout(z_BTD, cfg.dropout, keys_B, CONVOLUTION)
        z_BTD = ACTIVATIONS[self.activation or cfg.feedforward.activation](z_BTD)
        return Norm(cfg.norm, cfg.width, cfg.param_dtype, name="norm")(y_BTD + z_BTD)
