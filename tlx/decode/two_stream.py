"""Left-to-right continuation by a two-stream (XLNet) model: slow, for it has no cache of the past.

Every step runs the model over the whole row, with the order of the text as its permutation, and asks the
query stream for one place.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.decode.loop import DecodeInputs, DecodeSettings, DecodeState, run
from tlx.decode.padding import Padded
from tlx.models.two_stream import empty_memory


@functools.partial(jax.jit, static_argnames=("lm", "rules"))
def continue_two_stream(
    lm: nn.Module, params: Any, prompt: Padded, draws: DecodeInputs, rules: DecodeSettings
) -> tuple[jax.Array, jax.Array]:
    """New tokens [B, room] of prompts padded on the left, and how many of each row count."""
    batch, width = prompt.tokens.shape
    length = width + rules.buffer_size
    order_BN = jnp.broadcast_to(jnp.arange(length), (batch, length))
    segments_BN = jnp.pad(prompt.segments, ((0, 0), (0, rules.buffer_size)), constant_values=1)
    memory = empty_memory(lm.cfg, batch, 0)

    def logits_at(tokens_BN: jax.Array, place: jax.Array) -> jax.Array:
        features = {
            "tokens": tokens_BN,
            "positions": order_BN,
            "segments": segments_BN,
            "rank": order_BN,
            "query_rank": order_BN,
            "target_positions": jnp.broadcast_to(place, (batch, 1)),
        }
        query_B1D = lm.apply({"params": params}, features, memory, 0).query
        return lm.apply({"params": params}, query_B1D, method="logits")[:, 0]

    def advance(state: DecodeState) -> tuple[jax.Array, None]:
        tokens_BN = jnp.concatenate([prompt.tokens, state.new_BN], axis=1)
        return logits_at(tokens_BN, width + state.step), None

    prompt_BN = jnp.pad(prompt.tokens, ((0, 0), (0, rules.buffer_size)), constant_values=rules.pad)
    return run(logits_at(prompt_BN, jnp.int32(width)), None, advance, draws, rules, prompt)
