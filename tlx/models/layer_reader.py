"""A task's small model over a bilstm: a mix of its layers, and perhaps LSTMs of the task's own (ELMo).

Peters et al. 2018, 3.2 and 3.3: the task model reads gamma sum_l softmax(w)_l h_l of frozen or tuned layers h_l.

Shapes: U width of one direction.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.bilstm import Direction, ScalarMix
from tlx.models.config import ModelConfig
from tlx.models.heads import TaskHeadConfig
from tlx.nn.dropout import dropout, fold
from tlx.nn.linear import Linear
from tlx.nn.recurrent import RecurrentConfig, RecurrentLayers, empty_state

# Branches of a row's keys, outside those of the model, the head and the rows of an example.
_MIX = 2**23
_FORWARD = 2**23 + 1
_BACKWARD = 2**23 + 2


class LayerReader(nn.Module):
    """Hidden states [B, T, 2 U] for a task's head, of which each direction has one half.

    With head.lstm_layers 0 they are the mixed layers themselves, and U is the bilstm's width D.
    """

    cfg: ModelConfig
    """The bilstm."""

    shape: TaskHeadConfig
    """Layers and width of the LSTMs."""

    whole_rows: bool = False
    """Whether one position is to represent its row: the backward half of every position is then that of the first
    position of its segment, which has read the segment as the forward half of the last position has."""

    def setup(self):
        """Create the mix and the LSTMs."""
        cfg = self.cfg
        self.mix = ScalarMix(cfg.num_layers + 1, cfg.param_dtype)
        if self.shape.lstm_layers:
            dtype = cfg.block("encoder").dtype
            self.input = Linear(
                inputs=(2 * cfg.width,),
                outputs=(self.shape.lstm_width,),
                names=("embed", None),
                std=(2 * cfg.width) ** -0.5,
                bias=True,
                dtype=dtype,
                param_dtype=cfg.param_dtype,
            )
            self.forward = Direction(self._layers(dtype))
            self.backward = Direction(self._layers(dtype))

    def __call__(
        self, layers_LBTD: jax.Array, segments_BT: jax.Array, keys_B: jax.Array | None = None
    ) -> jax.Array:
        """Read the layers of a bilstm.

        Args:
            layers_LBTD: the token vectors and each layer's outputs, of width 2 D.
            segments_BT: int[B, T], 0 for padding.
            keys_B: one PRNG key for each row; None: no dropout.

        Returns:
            float[B, T, 2 U].
        """
        shape = self.shape
        hidden = dropout(self.mix(layers_LBTD), self.cfg.dropout, fold(keys_B, _MIX), 0)
        if shape.lstm_layers:
            x = self.input(hidden)
            state = empty_state(len(x), shape.lstm_layers, self._recurrent, shape.lstm_width, str(x.dtype))
            ahead, _ = self.forward(x, segments_BT, state, fold(keys_B, _FORWARD))
            back, _ = self.backward(x, segments_BT, state, fold(keys_B, _BACKWARD), backwards=True)
            hidden = jnp.concatenate([ahead[-1], back[-1]], axis=-1)
        if not self.whole_rows:
            return hidden
        ahead_BTU, back_BTU = jnp.split(hidden, 2, axis=-1)
        first_BT = segment_starts(segments_BT)
        return jnp.concatenate(
            [ahead_BTU, jnp.take_along_axis(back_BTU, first_BT[..., None], axis=1)], axis=-1
        )

    @property
    def width(self) -> int:
        """Size of the hidden states, 2 U."""
        return 2 * (self.shape.lstm_width if self.shape.lstm_layers else self.cfg.width)

    @property
    def _recurrent(self) -> RecurrentConfig:
        return RecurrentConfig(cell_dim=self.shape.lstm_width, cell_clip=0.0, projection_clip=0.0)

    def _layers(self, dtype: str) -> RecurrentLayers:
        """The layers of one direction."""
        return RecurrentLayers(
            cfg=self._recurrent,
            width=self.shape.lstm_width,
            num_layers=self.shape.lstm_layers,
            dropout=self.cfg.dropout,
            dtype=dtype,
            param_dtype=self.cfg.param_dtype,
            parent=None,
        )


def segment_starts(segments_BT: jax.Array) -> jax.Array:
    """Return int[B, T], the first position of the segment that each position belongs to."""
    begins = jnp.pad(segments_BT[:, 1:] != segments_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    positions = jnp.arange(segments_BT.shape[1])
    return jax.lax.cummax(jnp.where(begins, positions, 0), axis=1)
