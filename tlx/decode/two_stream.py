"""Left-to-right continuation by a two-stream (XLNet) model, which has no cache and is slow.

Every step runs the model over the whole row, with the order of the text as its permutation, and reads
one position of the query stream.
"""

import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.decode.loop import DecodeInputs, DecodeSettings, DecodeState, DecodeText, run
from tlx.decode.padding import Padded
from tlx.models.two_stream import empty_memory


@functools.partial(jax.jit, static_argnames=("lm", "settings"))
def continue_two_stream(
    lm: nn.Module, params: Any, prompt: Padded, inputs: DecodeInputs, settings: DecodeSettings
) -> tuple[jax.Array, jax.Array]:
    """Continue one batch of prompts.

    Args:
        lm: A TwoStream; static.
        params: Its parameters.
        prompt: Prompts, padded on the left.
        inputs: Values of this call.
        settings: Static values.

    Returns:
        (new token ids [B, T], number of tokens of each row [B]).
    """
    batch, width = prompt.tokens.shape
    length = width + settings.buffer_size
    order_BT = jnp.broadcast_to(jnp.arange(length), (batch, length))
    # Positions to come belong to the text already; the order of the permutation hides them until then.
    segments_BT = jnp.pad(prompt.segments, ((0, 0), (0, settings.buffer_size)), constant_values=1)
    # `apply` is typed as a union over `mutable`, which is not used here.
    call = cast(Any, functools.partial(lm.apply, {"params": params}))
    memory = empty_memory(lm.cfg, batch, 0)

    def logits_at(tokens_BT: jax.Array, position: jax.Array) -> jax.Array:
        features = {
            "tokens": tokens_BT,
            "positions": order_BT,
            "segments": segments_BT,
            "rank": order_BT,
            "query_rank": order_BT,
            "target_positions": jnp.broadcast_to(position, (batch, 1)),
        }
        query_B1D = call(features, memory, 0).query
        return call(query_B1D, method="logits")[:, 0]

    def advance(state: DecodeState) -> tuple[jax.Array, None]:
        tokens_BT = jnp.concatenate([prompt.tokens, state.new_BT], axis=1)
        return logits_at(tokens_BT, width + state.step), None

    prompt_BT = jnp.pad(prompt.tokens, ((0, 0), (0, settings.buffer_size)), constant_values=settings.pad)
    first_BV = logits_at(prompt_BT, jnp.int32(width))
    return run(first_BV, None, advance, inputs, settings, DecodeText(prompt))
