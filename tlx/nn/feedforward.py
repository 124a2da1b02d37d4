"""The position-wise network, and a choice among many."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tlx.nn.config import BlockConfig
from tlx.nn.dropout import dropout, fold
from tlx.nn.fusion import backward_barrier, forward_barrier, fusion_barrier
from tlx.nn.linear import Linear, fused_projections, should_fuse
from tlx.nn.quantized import FORMATS
from tlx.parallel.sharding import constrain, logical

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

_UNITS = 2**20  # branch of the keys of units that adaptation adds


def _barriers(cfg: BlockConfig) -> tuple[Callable, Callable]:
    """What keeps the activation out of the products before and behind it."""
    if cfg.matmul in FORMATS:  # to round is to pass over all values: that joins the activation, no product
        return (lambda x: x), (lambda x: x)
    # Where one product ends in the activation, the two are joined; what is behind them is not.
    return (fusion_barrier, fusion_barrier) if cfg.feedforward.gated else (backward_barrier, forward_barrier)


class FeedForward(nn.Module):
    """act(x W_in) W_out, or (act(x W_gate) * x W_in) W_out when gated (Shazeer 2020), [B, T, D]."""

    cfg: BlockConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, keys_B: jax.Array | None = None, site: int = 0) -> jax.Array:
        cfg, units = self.cfg, self.cfg.adapters.extra_ff_dim
        y_BTD = self._network(x_BTD, cfg.ff_dim, "", keys_B, site)
        if units:  # as if they were concatenated to the hidden ones
            y_BTD = y_BTD + self._network(x_BTD, units, "units_", fold(keys_B, _UNITS), site)
        return y_BTD

    def _network(
        self, x_BTD: jax.Array, size: int, prefix: str, keys_B: jax.Array | None, site: int
    ) -> jax.Array:
        """The network with `size` hidden units; added units begin with nothing to say."""
        cfg, part, names = self.cfg, self.cfg.feedforward, ("embed", "mlp")

        def linear(name: str, inputs: int, outputs: int, names: tuple[str, str], std: float) -> Linear:
            lora = None if prefix else cfg.lora(f"feedforward/{name}")
            rest = (names, std, part.bias, cfg.dtype, cfg.param_dtype, lora)
            return Linear((inputs,), (outputs,), *rest, matmul=cfg.matmul, name=prefix + name)

        inner = ("in", "gate") if part.gated else ("in",)
        layers = [linear(name, cfg.width, size, names, cfg.std(cfg.width)) for name in inner]
        products = fused_projections(x_BTD, layers) if should_fuse() else [layer(x_BTD) for layer in layers]
        before, after = _barriers(cfg)
        named = zip(before(products), ("in", "gate"), strict=False)
        h_BTF, *gate = (checkpoint_name(y, name) for y, name in named)
        activation = ACTIVATIONS[part.activation]
        h_BTF = after(activation(gate[0]) * h_BTF if gate else activation(h_BTF))
        h_BTF = checkpoint_name(constrain(h_BTF, ("batch", "sequence", "mlp")), "hidden")
        h_BTF = dropout(h_BTF, part.dropout, keys_B, site)
        out_std = 0.0 if prefix else cfg.residual_std(cfg.ff_dim)
        return linear("out", size, cfg.width, names[::-1], out_std)(h_BTF)


class Routing(NamedTuple):
    """What every token's choice was."""

    probs_BTE: jax.Array
    chosen_BTE: jax.Array  # 1 for the experts that the token asked for


class Experts(nn.Module):
    """sum over the k likeliest experts e of g_e(x) f_e(x), the k probabilities scaled to sum to 1.

    Jiang et al. 2024, 2.1 (Mixtral); with a capacity, tokens beyond it (later in the row, or of second
    choice) pass an expert by (Lepikhin et al. 2021, algorithm 1). Experts lie along the mesh axis "expert".
    """

    cfg: BlockConfig

    def setup(self):
        cfg, part = self.cfg, self.cfg.feedforward
        names, shape = ("expert", "embed", "mlp"), (part.num_experts, cfg.width, cfg.ff_dim)
        router = (cfg.width,), (part.num_experts,), ("embed", None), cfg.std(cfg.width), False
        self.router = Linear(*router, cfg.dtype, cfg.param_dtype)
        self.kernel_in = self._kernel("in", shape, names, cfg.std(cfg.width))
        if part.gated:
            self.kernel_gate = self._kernel("gate", shape, names, cfg.std(cfg.width))
        shape, names = (part.num_experts, cfg.ff_dim, cfg.width), ("expert", "mlp", "embed")
        self.kernel_out = self._kernel("out", shape, names, cfg.residual_std(cfg.ff_dim))

    def __call__(
        self, x_BTD: jax.Array, keys_B: jax.Array | None = None, site: int = 0
    ) -> tuple[jax.Array, Routing]:
        """[B, T, D], and what was chosen."""
        part = self.cfg.feedforward
        probs_BTE = jax.nn.softmax(self.router(x_BTD).astype(jnp.float32), axis=-1)
        best_BTK, which_BTK = jax.lax.top_k(probs_BTE, part.experts_per_token)
        best_BTK = best_BTK / best_BTK.sum(axis=-1, keepdims=True)
        hot_BTKE = jax.nn.one_hot(which_BTK, part.num_experts)
        routing = Routing(probs_BTE, hot_BTKE.sum(axis=2))
        if not part.capacity_factor:
            gates_BTE = jnp.einsum("btk,btke->bte", best_BTK, hot_BTKE)
            y_EBTD = self._run(jnp.broadcast_to(x_BTD, (part.num_experts, *x_BTD.shape)), keys_B, site)
            return jnp.einsum("bte,ebtd->btd", gates_BTE.astype(x_BTD.dtype), y_EBTD), routing
        place_BTKEC = self._places(hot_BTKE)
        x_EBCD = jnp.einsum("btkec,btd->ebcd", place_BTKEC.astype(x_BTD.dtype), x_BTD)
        gates_BTEC = jnp.einsum("btk,btkec->btec", best_BTK, place_BTKEC)
        y_EBCD = self._run(x_EBCD, keys_B, site)
        return jnp.einsum("btec,ebcd->btd", gates_BTEC.astype(x_BTD.dtype), y_EBCD), routing

    def _kernel(self, name: str, shape: tuple[int, ...], names: tuple[str, ...], std: float) -> jax.Array:
        init = logical(nn.initializers.normal(std), names)
        return self.param(name, init, shape, jnp.dtype(self.cfg.param_dtype))

    def _places(self, hot_BTKE: jax.Array) -> jax.Array:
        """The place [C] of every choice in its expert's queue, one-hot; zero for those beyond it."""
        part, (batch, length, count, experts) = self.cfg.feedforward, hot_BTKE.shape
        room = max(1, math.ceil(part.capacity_factor * length * count / experts))
        queue = jnp.swapaxes(hot_BTKE, 1, 2).reshape(batch, count * length, experts)  # first choices first
        before = (jnp.cumsum(queue, axis=1) - queue).reshape(batch, count, length, experts)
        before_BTKE = jnp.swapaxes(before, 1, 2).astype(jnp.int32)
        return jax.nn.one_hot(before_BTKE, room) * hot_BTKE[..., None]

    def _run(self, x_EBCD: jax.Array, keys_B: jax.Array | None, site: int) -> jax.Array:
        """Every expert on its own tokens."""
        part, dims = self.cfg.feedforward, ("expert", "batch", None)
        x_EBCD = constrain(x_EBCD, (*dims, "activation_embed"))
        activation = ACTIVATIONS[part.activation]
        h_EBCF = jnp.einsum("ebcd,edf->ebcf", x_EBCD, self.kernel_in.astype(x_EBCD.dtype))
        if part.gated:
            gate_EBCF = jnp.einsum("ebcd,edf->ebcf", x_EBCD, self.kernel_gate.astype(x_EBCD.dtype))
            h_EBCF = activation(gate_EBCF) * h_EBCF
        else:
            h_EBCF = activation(h_EBCF)
        h_EBCF = checkpoint_name(constrain(h_EBCF, (*dims, "mlp")), "hidden")
        h_EBCF = jnp.swapaxes(dropout(jnp.swapaxes(h_EBCF, 0, 1), part.dropout, keys_B, site), 0, 1)
        y_EBCD = jnp.einsum("ebcf,efd->ebcd", h_EBCF, self.kernel_out.astype(x_EBCD.dtype))
        return constrain(y_EBCD, (*dims, "activation_embed"))


def balance(chosen_share_E: jax.Array, mean_prob_E: jax.Array) -> jax.Array:
    """E sum_e f_e P_e, k where all experts are chosen alike (Fedus et al. 2022, eq. 4)."""
    return chosen_share_E.size * jnp.sum(chosen_share_E * mean_prob_E)
