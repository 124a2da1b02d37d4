"""The position-wise feed-forward network, and mixtures of many (experts).

Shapes: Z capacity of an expert in tokens of a row.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tlx.nn import weight_formats
from tlx.nn.config import BlockConfig
from tlx.nn.dropout import LOW_RANK, dropout, fold
from tlx.nn.fusion import backward_barrier, forward_barrier, fusion_barrier
from tlx.nn.linear import Linear, fused_projections, should_fuse
from tlx.nn.norm import Norm
from tlx.nn.quantized import FORMATS
from tlx.parallel.sharding import constrain, logical

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""Functions of activations. "gelu" is exact; "gelu_tanh" is GPT-2's approximation; "tanh" is for heads and
convolutions only."""

# Folded into the keys of the units that adaptation adds, so that they draw dropout bits of their own.
_UNITS = 2**20


def _barriers(cfg: BlockConfig) -> tuple[Callable, Callable]:
    """Barriers (before, after) that keep the activation out of the loops of the matrix products beside it."""
    if cfg.matmul in FORMATS:
        # Rounding to 8 bits passes over all values anyway: it absorbs the activation, and no product does.
        return (lambda x: x), (lambda x: x)
    if cfg.feedforward.gated:
        return fusion_barrier, fusion_barrier
    # A product that ends in the activation is one fusion; only the products behind it are kept apart.
    return backward_barrier, forward_barrier


class FeedForward(nn.Module):
    """act(x W_in) W_out, or (act(x W_gate) * x W_in) W_out when gated (Shazeer 2020), [B, T, D]."""

    cfg: BlockConfig
    """The layer."""

    normed_hidden: bool = False
    """Whether W_out reads norm(hidden activations) (the Evolved Transformer's decoder)."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, keys_B: jax.Array | None = None, site: int = 0) -> jax.Array:
        """Apply the network.

        Args:
            x_BTD: the stream, normalised where the layout says so.
            keys_B: one PRNG key for each row; None: no dropout.
            site: dropout site of the hidden activations.

        Returns:
            float[B, T, D].
        """
        cfg = self.cfg
        y_BTD = self._network(x_BTD, cfg.ff_dim, "", keys_B, site)
        if cfg.adapters.extra_ff_dim:
            # Equal to concatenating the added units to the hidden ones.
            unit_keys = fold(keys_B, _UNITS)
            y_BTD = y_BTD + self._network(x_BTD, cfg.adapters.extra_ff_dim, "units_", unit_keys, site)
        return y_BTD

    def _network(
        self, x_BTD: jax.Array, size: int, prefix: str, keys_B: jax.Array | None, site: int
    ) -> jax.Array:
        """Apply the network with `size` hidden units; those of a prefix begin with an output of zero."""
        cfg = self.cfg
        part = cfg.feedforward
        in_names = ("in", "gate") if part.gated else ("in",)
        layers = [
            self._linear(prefix, name, cfg.width, size, ("embed", "mlp"), cfg.std(cfg.width))
            for name in in_names
        ]
        if should_fuse() and not cfg.quantization.bits:
            products = fused_projections(x_BTD, layers, keys_B)
        else:
            products = [layer(x_BTD, keys_B) for layer in layers]
        before, after = _barriers(cfg)
        tagged = [checkpoint_name(y, name) for y, name in zip(before(products), in_names, strict=True)]
        activation = ACTIVATIONS[part.activation]
        if part.gated:
            h_BTF, gate_BTF = tagged
            h_BTF = after(activation(gate_BTF) * h_BTF)
        else:
            h_BTF = after(activation(tagged[0]))
        h_BTF = checkpoint_name(constrain(h_BTF, ("batch", "sequence", "mlp")), "hidden")
        h_BTF = dropout(h_BTF, part.dropout, keys_B, site)
        if self.normed_hidden:
            h_BTF = Norm(cfg.norm, size, cfg.param_dtype, name=prefix + "hidden_norm")(h_BTF)
        out_std = 0.0 if prefix else cfg.residual_std(cfg.ff_dim)
        return self._linear(prefix, "out", size, cfg.width, ("mlp", "embed"), out_std)(h_BTF, keys_B)

    def _linear(
        self, prefix: str, name: str, inputs: int, outputs: int, names: tuple[str, str], std: float
    ) -> Linear:
        """A matrix of the network; added units have no low-rank adaptation of their own."""
        cfg = self.cfg
        return Linear(
            inputs=(inputs,),
            outputs=(outputs,),
            names=names,
            std=std,
            bias=cfg.feedforward.bias,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            lora=None if prefix else cfg.lora(f"feedforward/{name}", LOW_RANK),
            matmul=cfg.matmul,
            quantization=cfg.quantization,
            name=prefix + name,
        )


class Routing(NamedTuple):
    """Which experts every token chose."""

    probs_BTX: jax.Array
    """float32[B, T, X], the router's probabilities."""

    chosen_BTX: jax.Array
    """float32[B, T, X], 1 for the K experts that the token chose, in spite of their capacity."""


class Experts(nn.Module):
    """sum over the K likeliest experts e of g_e(x) f_e(x), the K probabilities scaled to sum to 1.

    Jiang et al. 2024, 2.1 (Mixtral). With a capacity, tokens beyond it (later in the row, or of second
    choice) skip the expert (Lepikhin et al. 2021, algorithm 1). Experts are sharded over the mesh axis
    "expert".
    """

    cfg: BlockConfig
    """The layer."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        part = cfg.feedforward
        self.router = Linear(
            inputs=(cfg.width,),
            outputs=(part.num_experts,),
            names=("embed", None),
            std=cfg.std(cfg.width),
            bias=False,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            # Small, and its rounding would choose other experts.
            quantizable=False,
        )
        in_shape = (part.num_experts, cfg.width, cfg.ff_dim)
        in_names = ("expert", "embed", "mlp")
        self.kernel_in = self._kernel("in", in_shape, in_names, cfg.std(cfg.width))
        if part.gated:
            self.kernel_gate = self._kernel("gate", in_shape, in_names, cfg.std(cfg.width))
        out_shape = (part.num_experts, cfg.ff_dim, cfg.width)
        out_names = ("expert", "mlp", "embed")
        self.kernel_out = self._kernel("out", out_shape, out_names, cfg.residual_std(cfg.ff_dim))

    def __call__(
        self, x_BTD: jax.Array, keys_B: jax.Array | None = None, site: int = 0
    ) -> tuple[jax.Array, Routing]:
        """Apply to every token the experts that its router chooses.

        Args:
            x_BTD: the stream, normalised where the layout says so.
            keys_B: one PRNG key for each row; None: no dropout.
            site: dropout site of the hidden activations.

        Returns:
            (float[B, T, D], what was chosen).
        """
        part = self.cfg.feedforward
        # In float32: small differences of logits decide the choice, and bfloat16 has ties.
        probs_BTX = jax.nn.softmax(self.router(x_BTD).astype(jnp.float32), axis=-1)
        best_BTK, which_BTK = jax.lax.top_k(probs_BTX, part.experts_per_token)
        # The chosen probabilities alone are normalised, as in Mixtral.
        best_BTK = best_BTK / best_BTK.sum(axis=-1, keepdims=True)
        hot_BTKX = jax.nn.one_hot(which_BTK, part.num_experts)
        routing = Routing(probs_BTX, hot_BTKX.sum(axis=2))
        if not part.capacity_factor:
            # Exact: every expert reads every token, and the gates of those not chosen are zero.
            gates_BTX = jnp.einsum("btk,btke->bte", best_BTK, hot_BTKX)
            y_XBTD = self._run(jnp.broadcast_to(x_BTD, (part.num_experts, *x_BTD.shape)), keys_B, site)
            return jnp.einsum("bte,ebtd->btd", gates_BTX.astype(x_BTD.dtype), y_XBTD), routing
        # Dispatch and combine as products with one-hot arrays, which shard over batch and experts.
        slot_BTKXZ = self._queue_slots(hot_BTKX)
        x_XBZD = jnp.einsum("btkec,btd->ebcd", slot_BTKXZ.astype(x_BTD.dtype), x_BTD)
        gates_BTXZ = jnp.einsum("btk,btkec->btec", best_BTK, slot_BTKXZ)
        y_XBZD = self._run(x_XBZD, keys_B, site)
        return jnp.einsum("btec,ebcd->btd", gates_BTXZ.astype(x_BTD.dtype), y_XBZD), routing

    def _kernel(self, name: str, shape: tuple[int, ...], names: tuple[str, ...], std: float) -> jax.Array:
        init = logical(nn.initializers.normal(std), names, (-2,))
        kernel = weight_formats.param(self, name, init, shape, jnp.dtype(self.cfg.param_dtype))
        return weight_formats.dequantized(kernel, self.cfg.dtype)

    def _queue_slots(self, hot_BTKX: jax.Array) -> jax.Array:
        """The slot [Z] of every choice in its expert's queue, one-hot; zeros beyond the capacity."""
        batch, length, count, num_experts = hot_BTKX.shape
        capacity = max(1, math.ceil(self.cfg.feedforward.capacity_factor * length * count / num_experts))
        # All first choices queue before all second choices.
        queue = jnp.swapaxes(hot_BTKX, 1, 2).reshape(batch, count * length, num_experts)
        before = (jnp.cumsum(queue, axis=1) - queue).reshape(batch, count, length, num_experts)
        before_BTKX = jnp.swapaxes(before, 1, 2).astype(jnp.int32)
        return jax.nn.one_hot(before_BTKX, capacity) * hot_BTKX[..., None]

    def _run(self, x_XBZD: jax.Array, keys_B: jax.Array | None, site: int) -> jax.Array:
        """Apply every expert to its own tokens."""
        part = self.cfg.feedforward
        dims = ("expert", "batch", None)
        x_XBZD = constrain(x_XBZD, (*dims, "activation_embed"))
        activation = ACTIVATIONS[part.activation]
        h_XBZF = jnp.einsum("ebcd,edf->ebcf", x_XBZD, self.kernel_in.astype(x_XBZD.dtype))
        if part.gated:
            gate_XBZF = jnp.einsum("ebcd,edf->ebcf", x_XBZD, self.kernel_gate.astype(x_XBZD.dtype))
            h_XBZF = activation(gate_XBZF) * h_XBZF
        else:
            h_XBZF = activation(h_XBZF)
        h_XBZF = checkpoint_name(constrain(h_XBZF, (*dims, "mlp")), "hidden")
        # Dropout draws by row: the batch dim goes first.
        h_XBZF = jnp.swapaxes(dropout(jnp.swapaxes(h_XBZF, 0, 1), part.dropout, keys_B, site), 0, 1)
        y_XBZD = jnp.einsum("ebcf,efd->ebcd", h_XBZF, self.kernel_out.astype(x_XBZD.dtype))
        return constrain(y_XBZD, (*dims, "activation_embed"))


def balance(chosen_share_X: jax.Array, mean_prob_X: jax.Array) -> jax.Array:
    """Compute the load-balancing term X sum_e f_e P_e (Fedus et al. 2022, eq. 4).

    It is K where all experts are chosen alike, and larger otherwise. f_e is the fraction of tokens that
    chose expert e, P_e the mean of its probability.
    """
    return chosen_share_X.size * jnp.sum(chosen_share_X * mean_prob_X)
