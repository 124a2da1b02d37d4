"""Per-layer inputs: vectors of each token that a layer reads besides the residual stream (Gemma 3n, Gemma 4).

With e the token's row of a second table, of which layer l has the part e_l, and x the token's vector in the stream
before the first layer, layer l reads

    p_l = (norm(W_l x / sqrt(D)) + sqrt(U) e_l) / sqrt(2)

and adds norm(W_out (act(W_gate h) * p_l)) to its output h.

Shapes: U size of the per-layer inputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.config import BlockConfig
from tlx.nn.feedforward import ACTIVATIONS
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm


class PerLayerInputs(nn.Module):
    """The per-layer inputs p of all layers of a stack."""

    cfg: BlockConfig
    """Config of the stack."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, rows_BTE: jax.Array) -> jax.Array:
        """Compute the per-layer inputs.

        Args:
            x_BTD: the stream before the first layer.
            rows_BTE: rows of the table, of L U numbers.

        Returns:
            float[L, B, T, U].
        """
        cfg = self.cfg
        size = cfg.per_layer_dim
        shape = (cfg.num_layers, size)
        projection = Linear(
            inputs=(cfg.width,),
            outputs=shape,
            names=("embed", None, None),
            std=cfg.std(cfg.width),
            bias=False,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            name="projection",
        )
        # Scaled although a norm follows: its epsilon is added to the square.
        projected = projection(x_BTD) * cfg.width**-0.5
        projected = Norm(cfg.norm, size, cfg.param_dtype, name="norm")(projected)
        # As token vectors, which are scaled by the root of their size.
        rows = rows_BTE.reshape(*rows_BTE.shape[:2], *shape) * jnp.asarray(size**0.5, rows_BTE.dtype)
        return jnp.moveaxis((projected + rows) * 2**-0.5, 2, 0)


class PerLayerGate(nn.Module):
    """norm(W_out (act(W_gate h) * p)) of one layer."""

    cfg: BlockConfig
    """Config of the layer."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, per_layer_BTU: jax.Array) -> jax.Array:
        """Compute the vectors that are added to the layer's output.

        Args:
            x_BTD: the layer's output.
            per_layer_BTU: p of the layer.

        Returns:
            float[B, T, D].
        """
        cfg = self.cfg
        size = cfg.per_layer_dim
        gate = self._linear("gate", cfg.width, size, ("embed", None), cfg.std(cfg.width))
        out = self._linear("out", size, cfg.width, (None, "embed"), cfg.residual_std(size))
        hidden_BTU = ACTIVATIONS[cfg.feedforward.activation](gate(x_BTD)) * per_layer_BTU
        return Norm(cfg.norm, cfg.width, cfg.param_dtype, name="norm")(out(hidden_BTU))

    def _linear(
        self, name: str, inputs: int, outputs: int, names: tuple[str | None, str | None], std: float
    ) -> Linear:
        """A matrix without a bias."""
        return Linear(
            inputs=(inputs,),
            outputs=(outputs,),
            names=names,
            std=std,
            bias=False,
            dtype=self.cfg.dtype,
            param_dtype=self.cfg.param_dtype,
            name=name,
        )
