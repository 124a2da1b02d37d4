"""The position-wise network."""

import functools

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from tlx.nn.config import BlockConfig
from tlx.nn.dropout import dropout
from tlx.nn.linear import Linear
from tlx.parallel.sharding import constrain

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class FeedForward(nn.Module):
    """act(x W_in) W_out, or (act(x W_gate) * x W_in) W_out when gated (Shazeer 2020), [B, T, D]."""

    cfg: BlockConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, keys_B: jax.Array | None = None, site: int = 0) -> jax.Array:
        cfg = self.cfg
        part, names = cfg.feedforward, ("embed", "mlp")
        rest = (cfg.std(cfg.width), part.bias, cfg.dtype, cfg.param_dtype)
        h_BTF = Linear((cfg.width,), (cfg.hidden,), names, *rest, name="in")(x_BTD)
        activation = ACTIVATIONS[part.activation]
        if part.gated:
            gate_BTF = Linear((cfg.width,), (cfg.hidden,), names, *rest, name="gate")(x_BTD)
            h_BTF = activation(gate_BTF) * h_BTF
        else:
            h_BTF = activation(h_BTF)
        h_BTF = checkpoint_name(constrain(h_BTF, ("batch", "sequence", "mlp")), "hidden")
        h_BTF = dropout(h_BTF, part.dropout, keys_B, site)
        out_std = cfg.residual_std(cfg.hidden)
        out = Linear(
            (cfg.hidden,),
            (cfg.width,),
            names[::-1],
            out_std,
            part.bias,
            cfg.dtype,
            cfg.param_dtype,
            name="out",
        )
        return out(h_BTF)
