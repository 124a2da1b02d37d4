"""LSTM layers with projected, clipped states (Sak et al. 2014), as ELMo's language models have them."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.characters import CharacterConfig
from tlx.nn.dropout import dropout, fold
from tlx.parallel.sharding import constrain, logical


@dataclasses.dataclass(frozen=True)
class RecurrentConfig:
    """Of a recurrent model: its layers' cells, and what reads the characters of a token."""

    cell_dim: int = 4096  # width of a cell's memory; what it shows is projected to the model's width
    cell_clip: float = 3.0
    projection_clip: float = 3.0
    characters: CharacterConfig = dataclasses.field(default_factory=CharacterConfig)


class RecurrentState(NamedTuple):
    """What the layers of one direction remember of a row."""

    cell: jax.Array  # float32[B, L, H]
    hidden: jax.Array  # [B, L, D]


def empty_state(
    batch_size: int, num_layers: int, cfg: RecurrentConfig, width: int, dtype: str
) -> RecurrentState:
    """Nothing remembered."""
    cell = jnp.zeros((batch_size, num_layers, cfg.cell_dim), jnp.float32)
    return RecurrentState(cell, jnp.zeros((batch_size, num_layers, width), jnp.dtype(dtype)))


class RecurrentLayers(nn.Module):
    """The layers of one direction, [layers, ...] each.

    With z = x W + h R + b split into i, j, f, o:

        c' = clip(sigmoid(f + 1) c + sigmoid(i) tanh(j))
        h' = clip((sigmoid(o) tanh(c')) P)

    and from the second layer on a layer's input is added to its output.
    """

    cfg: RecurrentConfig
    width: int
    num_layers: int
    dropout: float
    dtype: str
    param_dtype: str

    def setup(self):
        layers, width, cell = self.num_layers, self.width, self.cfg.cell_dim
        dtype = jnp.dtype(self.param_dtype)
        normal, zeros = nn.initializers.normal, nn.initializers.zeros_init()
        names = ("layers", "embed", None, "mlp")
        init = logical(normal((2 * width) ** -0.5), names)
        self.input = self.param("input", init, (layers, width, 4, cell), dtype)
        self.recurrent = self.param("recurrent", init, (layers, width, 4, cell), dtype)
        self.bias = self.param("bias", logical(zeros, ("layers", None, "mlp")), (layers, 4, cell), dtype)
        init = logical(normal(cell**-0.5), ("layers", "mlp", "embed"))
        self.projection = self.param("projection", init, (layers, cell, width), dtype)

    def __call__(
        self,
        x_BTD: jax.Array,
        segments_BT: jax.Array,
        state: RecurrentState,
        keys_B: jax.Array | None = None,
        *,
        backwards: bool = False,
    ) -> tuple[list[jax.Array], RecurrentState]:
        """(each layer's outputs [B, T, D], the state behind the last place that is read).

        `backwards` reads from the last place to the first. The state is emptied where another segment
        begins, but not at the first place that is read, and stays empty on padding (segment 0).
        """
        real_BT = segments_BT > 0
        before = jnp.roll(segments_BT, -1 if backwards else 1, axis=1)
        begins = (segments_BT != before).at[:, -1 if backwards else 0].set(False)
        found, cells, hiddens = [], [], []
        for layer in range(self.num_layers):
            x_BTD = dropout(x_BTD, self.dropout, fold(keys_B, layer), 0)
            last = state.cell[:, layer], state.hidden[:, layer]
            y_BTD, (cell, hidden) = self._run(layer, x_BTD, ~begins & real_BT, real_BT, last, backwards)
            x_BTD = constrain(y_BTD + x_BTD if layer else y_BTD, ("batch", "sequence", "activation_embed"))
            found.append(x_BTD)
            cells.append(cell)
            hiddens.append(hidden)
        return found, RecurrentState(jnp.stack(cells, 1), jnp.stack(hiddens, 1))

    def _run(self, layer, x_BTD, continues_BT, real_BT, state, backwards):
        """One layer's outputs, without its input, and its last state."""
        cfg, dtype = self.cfg, x_BTD.dtype
        recurrent, projection = (w[layer].astype(dtype) for w in (self.recurrent, self.projection))
        z_BTGH = jnp.einsum("btd,dgh->btgh", x_BTD, self.input[layer].astype(dtype))
        z_BTGH = z_BTGH + self.bias[layer].astype(dtype)

        def step(state, place):
            z, continues, real = place
            cell, hidden = (jnp.where(continues[:, None], part, 0) for part in state)
            z = z + jnp.einsum("bd,dgh->bgh", hidden, recurrent)
            i, j, f, o = (z[:, gate].astype(jnp.float32) for gate in range(4))
            cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(j)
            cell = jnp.where(real[:, None], _clipped(cell, cfg.cell_clip), 0)
            hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(dtype) @ projection
            hidden = jnp.where(real[:, None], _clipped(hidden, cfg.projection_clip), 0)
            return (cell, hidden), hidden

        time_first = (jnp.swapaxes(part, 0, 1) for part in (z_BTGH, continues_BT, real_BT))
        state = (state[0], state[1].astype(dtype))
        state, y_TBD = jax.lax.scan(step, state, tuple(time_first), reverse=backwards)
        return jnp.swapaxes(y_TBD, 0, 1), state


def _clipped(x: jax.Array, limit: float) -> jax.Array:
    return jnp.clip(x, -limit, limit) if limit else x
