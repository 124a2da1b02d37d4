"""Adapter modules inside a layer besides low-rank matrices (linear.py): bottlenecks and prefixes.

Shapes: U vectors of a prefix, J hidden units of the network that makes it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.config import BlockConfig
from tlx.nn.linear import Linear
from tlx.nn.mask import Mask, dense
from tlx.nn.relative import RelativeTerms
from tlx.parallel.sharding import logical

# So small that the adapter is close to the identity at the start (Houlsby et al. 2019, 3.6).
_STDDEV = 1e-3


class BottleneckAdapter(nn.Module):
    """y + gelu(y W_down + b) W_up + b, close to the identity at the start (Houlsby et al. 2019)."""

    cfg: BlockConfig
    """The layer; its adapters give the width of the bottleneck."""

    @nn.compact
    def __call__(self, y_BTD: jax.Array) -> jax.Array:
        """Apply the adapter to what a part of the layer computed."""
        cfg = self.cfg
        width = (cfg.width,)
        bottleneck = (cfg.adapters.bottleneck_dim,)
        dtypes = (cfg.dtype, cfg.param_dtype)
        down = Linear(width, bottleneck, ("embed", None), _STDDEV, True, *dtypes, name="down")
        up = Linear(bottleneck, width, (None, "embed"), _STDDEV, True, *dtypes, name="up")
        return y_BTD + up(jax.nn.gelu(down(y_BTD)))


class Prefix(nn.Module):
    """Trained keys and values that every query of a layer sees before those of the text (Li and Liang 2021).

    They are parameters themselves, as in P-tuning v2 (Liu et al. 2022), or what a PrefixNetwork made. They have no
    position, and no bias by it.
    """

    cfg: BlockConfig
    """The layer; its adapters give the length of the prefix."""

    @nn.compact
    def __call__(
        self,
        query_BTNH: jax.Array,
        key_BSGH: jax.Array,
        value_BSGH: jax.Array,
        mask: Mask,
        bias: jax.Array | RelativeTerms | None,
    ) -> tuple[jax.Array, jax.Array, Mask, jax.Array | None]:
        """Put the prefix before keys and values.

        Args:
            query_BTNH: queries; only their shape is read.
            key_BSGH: the text's keys.
            value_BSGH: the text's values.
            mask: which keys of the text each query may attend to.
            bias: float[..., N, T, S] or None.

        Returns:
            (keys, values, mask, bias) over prefix + S keys. The mask is dense, so that plain einsums
            compute it.
        """
        cfg = self.cfg
        size = cfg.adapters.prefix_length
        batch, length = query_BTNH.shape[:2]
        num_keys = key_BSGH.shape[1]
        visible = dense(mask, length, num_keys)
        if visible is not None:
            # Masks may be one for all rows; the padded one is stored for each.
            visible = jnp.broadcast_to(visible[:, 0], (batch, length, num_keys))
            # Every query sees the whole prefix, padding's queries too, which nothing reads.
            visible = jnp.pad(visible, ((0, 0), (0, 0), (size, 0)), constant_values=True)
        if bias is not None:
            assert not isinstance(bias, RelativeTerms), "relative terms must be laid out over the keys"
            # The prefix has no position: its bias is 0.
            bias = jnp.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(size, 0)])
        key = self._prepend("key", key_BSGH)
        value = self._prepend("value", value_BSGH)
        return key, value, Mask(None, None, visible=visible), bias

    def _prepend(self, name: str, x_BSGH: jax.Array) -> jax.Array:
        """Put the parameter `name`, equal for all rows, before x."""
        cfg = self.cfg
        init = logical(nn.initializers.normal(cfg.init.stddev), (None, "kv_heads", "head_dim"))
        shape = (cfg.adapters.prefix_length, cfg.num_kv_heads, cfg.head_dim)
        prefix = self.param(name, init, shape, jnp.dtype(cfg.param_dtype)).astype(x_BSGH.dtype)
        return jnp.concatenate([jnp.broadcast_to(prefix, (x_BSGH.shape[0], *shape)), x_BSGH], axis=1)


class PrefixNetwork(nn.Module):
    """Keys and values of all layers' prefixes, tanh(table W_in + b) W_out + b (Li and Liang 2021, 4.3).

    The table and the first map are of all layers, the second map has a part for each. What it makes takes the
    parameters of Prefix.
    """

    cfg: BlockConfig
    """The stack's layers; their adapters give the length of the prefix and the hidden width."""

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        """Return "key" and "value", [L, U, G, H] each, U the length of the prefix, in the dtype of the parameters."""
        cfg = self.cfg
        length = cfg.adapters.prefix_length
        hidden = cfg.adapters.prefix_hidden
        dtype = jnp.dtype(cfg.param_dtype)
        # Small, so that the prefix begins near the biases: the same keys for all of its positions.
        table_init = logical(nn.initializers.normal(cfg.init.stddev), (None, None))
        table = self.param("table", table_init, (length, cfg.width), dtype)
        linear = Linear(
            (cfg.width,),
            (hidden,),
            (None, None),
            cfg.width**-0.5,
            True,
            cfg.param_dtype,
            cfg.param_dtype,
            name="in",
        )
        hidden_UJ = jnp.tanh(linear(table))
        shape = (cfg.num_kv_heads, cfg.head_dim)
        made = {}
        for name in ("key", "value"):
            kernel_names = ("layers", None, "kv_heads", "head_dim")
            kernel_init = logical(nn.initializers.normal(hidden**-0.5), kernel_names)
            kernel = self.param(f"{name}_kernel", kernel_init, (cfg.num_layers, hidden, *shape), dtype)
            bias_init = logical(nn.initializers.zeros_init(), ("layers", "kv_heads", "head_dim"))
            bias = self.param(f"{name}_bias", bias_init, (cfg.num_layers, *shape), dtype)
            made[name] = jnp.einsum("uj,ljgh->lugh", hidden_UJ, kernel) + bias[:, None]
        return made
