"""The loop that draws one token of each row at a time, whatever computes the logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlx.decode.padding import Padded
from tlx.decode.sampling import SamplingArrays, penalised, sample
from tlx.decode.stop import BEGIN, FOUND


class DecodeSettings(NamedTuple):
    """What is fixed when the loop is compiled."""

    greedy: bool
    truncated: bool
    penalised: bool
    buffer_size: int  # tokens that fit the buffer, at least as many as are drawn
    eos: int
    pad: int


class DecodeInputs(NamedTuple):
    """What is different for every call."""

    keys_B: jax.Array  # step s of row b draws with fold_in(keys_B[b], s)
    max_tokens: jax.Array
    sampling: SamplingArrays
    stops_SV: jax.Array | None = None  # the automaton of stop strings (decode/stop.py)


class DecodeState(NamedTuple):
    """State of the loop; `memory` belongs to whatever computes the logits."""

    step: jax.Array  # tokens drawn so far
    last_B: jax.Array
    counts_B: jax.Array  # tokens of each row before its eos
    done_B: jax.Array
    new_BN: jax.Array
    seen_BV: jax.Array | None  # tokens of the text so far, where they are penalised
    stop_B: jax.Array | None  # states of the automaton of stop strings
    memory: Any


def run(
    logits_BV: jax.Array,
    memory: Any,
    advance: Callable[[DecodeState], tuple[jax.Array, Any]],
    draws: DecodeInputs,
    rules: DecodeSettings,
    prompt: Padded,
) -> tuple[jax.Array, jax.Array]:
    """(new tokens [B, room], how many of each row count), until all rows have ended or `max_tokens`.

    A row ends with eos, which does not count, or with the token that completes a stop string, which does.
    `logits_BV` are those of the first token; advance(state) computes the next ones and the new memory.
    """
    stops_SV, rows_B = draws.stops_SV, jnp.arange(logits_BV.shape[0])

    def draw(state: DecodeState, logits_BV: jax.Array, memory: Any) -> DecodeState:
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(draws.keys_B, state.step)
        seen_BV, stop_B = state.seen_BV, state.stop_B
        if seen_BV is not None:
            logits_BV = penalised(logits_BV, seen_BV, draws.sampling.repetition_penalty)
        token_B = sample(logits_BV, keys_B, draws.sampling, rules.greedy, rules.truncated)
        done_B = state.done_B | (token_B == rules.eos)
        token_B = jnp.where(done_B, rules.pad, token_B)
        counts_B = state.counts_B + ~done_B
        if seen_BV is not None:
            seen_BV = seen_BV.at[rows_B, token_B].set(True)
        if stops_SV is not None:
            stop_B = jnp.where(done_B, stop_B, stops_SV[stop_B, token_B])
            done_B |= stop_B == FOUND
        new_BN = jax.lax.dynamic_update_index_in_dim(state.new_BN, token_B, state.step, axis=1)
        return DecodeState(state.step + 1, token_B, counts_B, done_B, new_BN, seen_BV, stop_B, memory)

    none_B = jnp.zeros_like(rows_B, jnp.int32)
    seen_BV = None
    if rules.penalised:
        seen_BV = jnp.zeros(logits_BV.shape, bool).at[rows_B[:, None], prompt.tokens].max(prompt.segments > 0)
    stop_B = None if stops_SV is None else none_B + BEGIN
    empty_BN = jnp.full((len(rows_B), rules.buffer_size), rules.pad, jnp.int32)
    first = DecodeState(jnp.int32(0), none_B, none_B, none_B > 0, empty_BN, seen_BV, stop_B, None)
    state = jax.lax.while_loop(
        lambda state: (state.step < draws.max_tokens) & ~state.done_B.all(),
        lambda state: draw(state, *advance(state)),
        draw(first, logits_BV, memory),
    )
    return state.new_BN, state.counts_B
