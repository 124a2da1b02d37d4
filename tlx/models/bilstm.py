"""ELMo: two stacks of LSTMs, one for each direction, over tokens that are read from their characters.

Shapes: W characters of a token.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.config import ModelConfig
from tlx.models.transformer import Batch
from tlx.nn.characters import CharacterEncoder
from tlx.nn.dropout import fold
from tlx.nn.recurrent import RecurrentLayers, RecurrentState, empty_state
from tlx.parallel.sharding import logical

# Folded into a row's keys, one for each direction.
FORWARD = 2**20
BACKWARD = 2**20 + 1


class BiLSTMState(NamedTuple):
    """States of both directions, from which they go on with the next rows."""

    forward: RecurrentState
    """After the last token that the forward direction has read."""

    backward: RecurrentState
    """After the last token that the backward direction has read: the first one of the rows before."""


class BiLSTM(nn.Module):
    """Peters et al. 2018, section 3: the biLM without its softmax."""

    cfg: ModelConfig
    """The model."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        dtype = cfg.block("encoder").dtype
        self.characters = CharacterEncoder(cfg.recurrent.characters, cfg.width, dtype, cfg.param_dtype)
        self.forward = Direction(self._layers())
        self.backward = Direction(self._layers())

    def __call__(self, batch: Batch, *, keys: jax.Array | None = None) -> jax.Array:
        """Compute all representations of each token, for a task's `ScalarMix`.

        Args:
            batch: characters int[B, T, W], segments int[B, T].
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            float[L + 1, B, T, 2 D]. Layer 0 is the token's vector, twice; the others are what both
            directions have read up to the token, itself included.
        """
        return self.with_states(batch, None, keys=keys)[0]

    def with_states(
        self, batch: Batch, states: BiLSTMState | None, *, keys: jax.Array | None = None
    ) -> tuple[jax.Array, BiLSTMState]:
        """Compute all representations, both directions beginning in given states.

        The released code evaluates sentence after sentence so (bilm-tf, bilm/model.py): each row's states are those
        after the same row of the batch before, of the backward direction too. Rows must then end in no padding.

        Args:
            batch: see `__call__`.
            states: the states before; None: empty ones.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            (float[L + 1, B, T, 2 D], the states after this batch).
        """
        segments = batch["segments"]
        x = self.tokens(batch["characters"])
        ahead, forward = self.read_forward(x, segments, states and states.forward, keys)
        back, backward = self._read_backward(x, segments, states and states.backward, keys)
        # Layer 0 is the token's vector for either direction.
        layers = zip([x, *ahead], [x, *back], strict=True)
        layers_LBTD = jnp.stack([jnp.concatenate(pair, axis=-1) for pair in layers])
        return layers_LBTD, BiLSTMState(forward, backward)

    def tokens(self, characters_BTW: jax.Array) -> jax.Array:
        """Compute the vector of each token, [B, T, D]."""
        return self.characters(characters_BTW)

    def read_forward(
        self,
        x_BTD: jax.Array,
        segments_BT: jax.Array,
        state: RecurrentState | None,
        keys: jax.Array | None = None,
    ) -> tuple[list[jax.Array], RecurrentState]:
        """Run the forward direction.

        Args:
            x_BTD: token vectors.
            segments_BT: int[B, T], 0 for padding.
            state: the state before the first token; None: an empty one.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            (each layer's outputs [B, T, D], the state after the last token).
        """
        if state is None:
            state = self.empty(len(x_BTD))
        return self.forward(x_BTD, segments_BT, state, fold(keys, FORWARD))

    def read_backward(
        self, x_BTD: jax.Array, segments_BT: jax.Array, keys: jax.Array | None = None
    ) -> list[jax.Array]:
        """Run the backward direction, from the row's end and an empty state.

        Args:
            x_BTD: token vectors.
            segments_BT: int[B, T], 0 for padding.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            Each layer's outputs [B, T, D].
        """
        return self._read_backward(x_BTD, segments_BT, None, keys)[0]

    def empty(self, batch_size: int) -> RecurrentState:
        """Create the state in which either direction starts."""
        cfg = self.cfg
        dtype = cfg.block("encoder").dtype
        return empty_state(batch_size, cfg.num_layers, cfg.recurrent, cfg.width, dtype)

    def _read_backward(
        self,
        x_BTD: jax.Array,
        segments_BT: jax.Array,
        state: RecurrentState | None,
        keys: jax.Array | None,
    ) -> tuple[list[jax.Array], RecurrentState]:
        """As `read_backward`, from a state (None: an empty one), with the state after the first token."""
        if state is None:
            state = self.empty(len(x_BTD))
        return self.backward(x_BTD, segments_BT, state, fold(keys, BACKWARD), backwards=True)

    def _layers(self) -> RecurrentLayers:
        cfg = self.cfg
        return RecurrentLayers(
            cfg=cfg.recurrent,
            width=cfg.width,
            num_layers=cfg.num_layers,
            dropout=cfg.dropout,
            # parent=None: the layers belong to the Direction, whose parameters are under "blocks".
            dtype=cfg.block("encoder").dtype,
            param_dtype=cfg.param_dtype,
            parent=None,
        )


class Direction(nn.Module):
    """One direction's layers, under the name "blocks" as those of any stack."""

    blocks: RecurrentLayers
    """The layers."""

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[list[jax.Array], RecurrentState]:
        """Call the layers: see RecurrentLayers."""
        return self.blocks(*args, **kwargs)


class ScalarMix(nn.Module):
    """gamma sum_l softmax(w)_l h_l (Peters et al. 2018, eq. 1): what a task reads of a biLM."""

    num_layers: int
    """Number of mixed layers, the token vectors included."""

    param_dtype: str = "float32"
    """Of w and gamma."""

    @nn.compact
    def __call__(self, layers_LBTD: jax.Array) -> jax.Array:
        """Mix the layers to [B, T, D]."""
        dtype = jnp.dtype(self.param_dtype)
        zeros = nn.initializers.zeros_init()
        ones = nn.initializers.ones_init()
        weights_L = self.param("weights", logical(zeros, (None,)), (self.num_layers,), dtype)
        gamma = self.param("gamma", logical(ones, ()), (), dtype)
        # Mixed in the dtype of the layers, weights computed in that of the parameters.
        shares_L = (gamma * jax.nn.softmax(weights_L)).astype(layers_LBTD.dtype)
        return jnp.einsum("l,lbtd->btd", shares_L, layers_LBTD)
