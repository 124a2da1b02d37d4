"""Heads that an objective puts on hidden states and that transfer leaves behind."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.config import ModelConfig
from tlx.nn.embed import Unembedding
from tlx.nn.feedforward import ACTIVATIONS
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.parallel.sharding import logical


class MaskedHead(nn.Module):
    """BERT's MLM transform: dense, activation, norm, then the token table and a bias of its own."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, hidden: jax.Array, unembedding: Unembedding) -> tuple[jax.Array, Unembedding]:
        """(transformed hidden states [..., E], unembedding over the model's table with this bias)."""
        cfg, block = self.cfg, self.cfg.block("encoder")
        width = unembedding.kernel.shape[1]
        names = ("embed", None)
        dense = Linear(
            (cfg.width,),
            (width,),
            names,
            block.std(cfg.width),
            True,
            block.dtype,
            cfg.param_dtype,
            name="dense",
        )
        hidden = ACTIVATIONS[cfg.feedforward.activation](dense(hidden))
        hidden = Norm(cfg.norm, width, cfg.param_dtype, name="norm")(hidden)
        zeros = logical(nn.initializers.zeros_init(), ("vocab",))
        bias = self.param("bias", zeros, unembedding.kernel.shape[:1], jnp.dtype(cfg.param_dtype))
        return hidden, unembedding._replace(bias=bias)
