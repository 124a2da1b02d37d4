"""The loop that draws one token of each row at a time, whatever computes the logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlx.decode.sampling import Knobs, sample


class Rules(NamedTuple):
    """What is fixed when the loop is compiled."""

    greedy: bool
    truncated: bool
    room: int  # tokens that fit the buffer, at least as many as are drawn
    eos: int
    pad: int


class Draws(NamedTuple):
    """What is different for every call."""

    keys_B: jax.Array  # step s of row b draws with fold_in(keys_B[b], s)
    max_tokens: jax.Array
    knobs: Knobs


class Loop(NamedTuple):
    """State of the loop; `memory` belongs to whatever computes the logits."""

    step: jax.Array  # tokens drawn so far
    last_B: jax.Array
    counts_B: jax.Array  # tokens of each row before its eos
    done_B: jax.Array
    new_BN: jax.Array
    memory: Any


def run(
    logits_BV: jax.Array,
    memory: Any,
    advance: Callable[[Loop], tuple[jax.Array, Any]],
    draws: Draws,
    rules: Rules,
) -> tuple[jax.Array, jax.Array]:
    """(new tokens [B, room], how many of each row count), until eos everywhere or `max_tokens`.

    `logits_BV` are those of the first token; advance(state) computes the next ones and the new memory.
    """

    def draw(state: Loop, logits_BV: jax.Array, memory: Any) -> Loop:
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(draws.keys_B, state.step)
        token_B = sample(logits_BV, keys_B, draws.knobs, rules.greedy, rules.truncated)
        done_B = state.done_B | (token_B == rules.eos)
        token_B = jnp.where(done_B, rules.pad, token_B)
        new_BN = jax.lax.dynamic_update_index_in_dim(state.new_BN, token_B, state.step, axis=1)
        return Loop(state.step + 1, token_B, state.counts_B + ~done_B, done_B, new_BN, memory)

    batch = logits_BV.shape[0]
    none_B = jnp.zeros(batch, jnp.int32)
    empty_BN = jnp.full((batch, rules.room), rules.pad, jnp.int32)
    state = jax.lax.while_loop(
        lambda state: (state.step < draws.max_tokens) & ~state.done_B.all(),
        lambda state: draw(state, *advance(state)),
        draw(Loop(jnp.int32(0), none_B, none_B, none_B > 0, empty_BN, None), logits_BV, memory),
    )
    return state.new_BN, state.counts_B
