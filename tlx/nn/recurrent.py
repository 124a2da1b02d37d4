"""LSTM layers with projected, clipped states (Sak et al. 2014), as in ELMo's language models.

Shapes: I gates of a cell (input, candidate, forget, output), U cells.
"""

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
    """The layers and the character encoder of a bilstm."""

    cell_dim: int = 4096
    """Number of cells of a layer; their outputs are projected to model.width."""

    cell_clip: float = 3.0
    """Largest magnitude of a cell's state; 0: no clipping."""

    projection_clip: float = 3.0
    """Largest magnitude of a projected output; 0: no clipping."""

    skip_connections: bool = True
    """Whether the input of each layer but the first is added to its output (the released ELMo: yes)."""

    characters: CharacterConfig = dataclasses.field(default_factory=CharacterConfig)
    """The encoder of a token's characters."""


class RecurrentState(NamedTuple):
    """The state of all layers of one direction."""

    cell: jax.Array
    """float32[B, L, U]."""

    hidden: jax.Array
    """[B, L, D], the projected outputs."""


def empty_state(
    batch_size: int, num_layers: int, cfg: RecurrentConfig, width: int, dtype: str
) -> RecurrentState:
    """Create the state before the first token.

    Args:
        batch_size: B.
        num_layers: L.
        cfg: number of cells.
        width: D.
        dtype: of the projected outputs; cells are float32.

    Returns:
        Zeros.
    """
    cell = jnp.zeros((batch_size, num_layers, cfg.cell_dim), jnp.float32)
    return RecurrentState(cell, jnp.zeros((batch_size, num_layers, width), jnp.dtype(dtype)))


class RecurrentLayers(nn.Module):
    """The layers of one direction, with parameters stacked [layers, ...].

    With z = x W + h R + b split into i, j, f, o:

        c' = clip(sigmoid(f + 1) c + sigmoid(i) tanh(j))
        h' = clip((sigmoid(o) tanh(c')) P)

    From the second layer on, a layer's input is added to its output (cfg.skip_connections).
    """

    cfg: RecurrentConfig
    """Cells and clips."""

    width: int
    """The model's width, D."""

    num_layers: int
    """Number of layers."""

    dropout: float
    """Dropout rate of each layer's input."""

    dtype: str
    """Of the computation; cells and gates are float32."""

    param_dtype: str
    """Of the parameters."""

    def setup(self):
        """Create parameters and submodules."""
        shape = (self.num_layers, self.width, 4, self.cfg.cell_dim)
        dtype = jnp.dtype(self.param_dtype)
        zeros = nn.initializers.zeros_init()
        init = nn.initializers.normal((2 * self.width) ** -0.5)
        init = logical(init, ("layers", "embed", None, "mlp"))
        self.input = self.param("input", init, shape, dtype)
        self.recurrent = self.param("recurrent", init, shape, dtype)
        bias_shape = (self.num_layers, 4, self.cfg.cell_dim)
        self.bias = self.param("bias", logical(zeros, ("layers", None, "mlp")), bias_shape, dtype)
        init = logical(nn.initializers.normal(self.cfg.cell_dim**-0.5), ("layers", "mlp", "embed"))
        projection_shape = (self.num_layers, self.cfg.cell_dim, self.width)
        self.projection = self.param("projection", init, projection_shape, dtype)

    def __call__(
        self,
        x_BTD: jax.Array,
        segments_BT: jax.Array,
        state: RecurrentState,
        keys_B: jax.Array | None = None,
        *,
        backwards: bool = False,
    ) -> tuple[list[jax.Array], RecurrentState]:
        """Run all layers over the row.

        The state is reset where another segment begins, except at the first position that is read, and
        stays empty on padding (segment 0).

        Args:
            x_BTD: token vectors.
            segments_BT: int[B, T], 0 for padding.
            state: the state before the first position that is read.
            keys_B: one PRNG key for each row; None: no dropout.
            backwards: read from the last position to the first.

        Returns:
            (each layer's outputs [B, T, D], the state after the last position that is read).
        """
        real_BT = segments_BT > 0
        before = jnp.roll(segments_BT, -1 if backwards else 1, axis=1)
        begins = (segments_BT != before).at[:, -1 if backwards else 0].set(False)
        outputs = []
        cells = []
        hiddens = []
        for layer in range(self.num_layers):
            # One site a layer: the keys are folded by layer instead.
            x_BTD = dropout(x_BTD, self.dropout, fold(keys_B, layer), 0)
            last = (state.cell[:, layer], state.hidden[:, layer])
            y_BTD, (cell, hidden) = self._run(layer, x_BTD, ~begins & real_BT, real_BT, last, backwards)
            if layer and self.cfg.skip_connections:
                y_BTD = y_BTD + x_BTD
            x_BTD = constrain(y_BTD, ("batch", "sequence", "activation_embed"))
            outputs.append(x_BTD)
            cells.append(cell)
            hiddens.append(hidden)
        return outputs, RecurrentState(jnp.stack(cells, 1), jnp.stack(hiddens, 1))

    def _run(
        self,
        layer: int,
        x_BTD: jax.Array,
        continues_BT: jax.Array,
        real_BT: jax.Array,
        state: tuple[jax.Array, jax.Array],
        backwards: bool,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Run one layer.

        Args:
            layer: its index.
            x_BTD: its input.
            continues_BT: whether the state of the position before is kept.
            real_BT: whether the position is a token.
            state: (cell, hidden) before the first position.
            backwards: read from the last position to the first.

        Returns:
            (outputs without the layer's input, (cell, hidden) after the last position).
        """
        cfg = self.cfg
        dtype = x_BTD.dtype
        recurrent = self.recurrent[layer].astype(dtype)
        projection = self.projection[layer].astype(dtype)
        # One large product for the inputs of all positions; only the recurrent one is inside the scan.
        z_BTIU = jnp.einsum("btd,dgh->btgh", x_BTD, self.input[layer].astype(dtype))
        z_BTIU = z_BTIU + self.bias[layer].astype(dtype)

        def step(state: tuple[jax.Array, jax.Array], position: tuple[jax.Array, ...]):
            z, continues, is_token = position
            # A new segment starts from an empty state.
            cell, hidden = (jnp.where(continues[:, None], part, 0) for part in state)
            z = z + jnp.einsum("bd,dgh->bgh", hidden, recurrent)
            i, j, f, o = (z[:, gate].astype(jnp.float32) for gate in range(4))
            cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(j)
            # Padding leaves an empty state, wherever it stands.
            cell = jnp.where(is_token[:, None], _clip(cell, cfg.cell_clip), 0)
            hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(dtype) @ projection
            hidden = jnp.where(is_token[:, None], _clip(hidden, cfg.projection_clip), 0)
            return (cell, hidden), hidden

        time_first = tuple(jnp.swapaxes(part, 0, 1) for part in (z_BTIU, continues_BT, real_BT))
        start = (state[0], state[1].astype(dtype))
        end, y_TBD = jax.lax.scan(step, start, time_first, reverse=backwards)
        return jnp.swapaxes(y_TBD, 0, 1), end


def _clip(x: jax.Array, limit: float) -> jax.Array:
    """Clip magnitudes at `limit`; 0 clips nothing."""
    return jnp.clip(x, -limit, limit) if limit else x
