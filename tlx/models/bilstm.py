"""ELMo: two stacks of LSTMs, one for each direction, over tokens read from their characters."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.config import ModelConfig
from tlx.models.transformer import Batch
from tlx.nn.characters import CharacterEncoder
from tlx.nn.dropout import fold
from tlx.nn.recurrent import RecurrentLayers, RecurrentState, empty_state
from tlx.parallel.sharding import logical

# Branches of a row's keys.
FORWARD, BACKWARD = 2**20, 2**20 + 1


class BiLSTM(nn.Module):
    """Peters et al. 2018, section 3: the biLM without its softmax."""

    cfg: ModelConfig

    def setup(self):
        cfg, dtypes = self.cfg, (self.cfg.block("encoder").dtype, self.cfg.param_dtype)
        self.characters = CharacterEncoder(cfg.recurrent.characters, cfg.width, *dtypes)
        sizes = cfg.recurrent, cfg.width, cfg.num_layers, cfg.dropout
        self.forward = Direction(RecurrentLayers(*sizes, *dtypes, parent=None))
        self.backward = Direction(RecurrentLayers(*sizes, *dtypes, parent=None))

    def __call__(self, batch: Batch, *, keys: jax.Array | None = None) -> jax.Array:
        """All representations of each token, [L + 1, B, T, 2 D], for a task's `ScalarMix`.

        batch: characters int[B, T, C], segments int[B, T]. Layer 0 is the token's vector, twice; the others
        are what both directions have seen up to the token, itself among it.
        """
        x, segments = self.tokens(batch["characters"]), batch["segments"]
        ahead, _ = self.read_forward(x, segments, None, keys)
        back = self.read_backward(x, segments, keys)
        both = [jnp.concatenate(pair, axis=-1) for pair in zip([x, *ahead], [x, *back], strict=True)]
        return jnp.stack(both)

    def tokens(self, characters_BTC: jax.Array) -> jax.Array:
        """The vector of each token, [B, T, D]."""
        return self.characters(characters_BTC)

    def read_forward(
        self,
        x_BTD: jax.Array,
        segments_BT: jax.Array,
        state: RecurrentState | None,
        keys: jax.Array | None = None,
    ) -> tuple[list[jax.Array], RecurrentState]:
        """(each layer's outputs [B, T, D], the state behind the last token); None is an empty state."""
        state = self.empty(len(x_BTD)) if state is None else state
        return self.forward(x_BTD, segments_BT, state, fold(keys, FORWARD))

    def read_backward(
        self, x_BTD: jax.Array, segments_BT: jax.Array, keys: jax.Array | None = None
    ) -> list[jax.Array]:
        """Each layer's outputs [B, T, D], read from the end."""
        state = self.empty(len(x_BTD))
        return self.backward(x_BTD, segments_BT, state, fold(keys, BACKWARD), backwards=True)[0]

    def empty(self, batch_size: int) -> RecurrentState:
        """What either direction begins with."""
        cfg = self.cfg
        dtype = cfg.block("encoder").dtype
        return empty_state(batch_size, cfg.num_layers, cfg.recurrent, cfg.width, dtype)


class Direction(nn.Module):
    """One direction's layers, under the name "blocks" as any stack's."""

    blocks: RecurrentLayers

    def __call__(self, *args, **kwargs):
        """As `RecurrentLayers`."""
        return self.blocks(*args, **kwargs)


class ScalarMix(nn.Module):
    """gamma sum_l softmax(w)_l h_l (Peters et al. 2018, eq. 1): what a task reads of a biLM."""

    num_layers: int  # the tokens' own among them
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, layers_LBTD: jax.Array) -> jax.Array:
        """[B, T, D]."""
        zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
        dtype = jnp.dtype(self.param_dtype)
        weights_L = self.param("weights", logical(zeros, (None,)), (self.num_layers,), dtype)
        gamma = self.param("gamma", logical(ones, ()), (), dtype)
        shares_L = (gamma * jax.nn.softmax(weights_L)).astype(layers_LBTD.dtype)
        return jnp.einsum("l,lbtd->btd", shares_L, layers_LBTD)
