"""Loop that draws one token of each row at a time, for any function that computes logits.

A caller that wants the tokens as they come runs the loop in parts: `begin`, then `go_on` up to a step at a time.

Shapes: A states of the automaton of stop strings.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.decode.constraints import apply_rules, is_end, text_so_far
from tlx.decode.padding import Padded
from tlx.decode.sampling import SamplingArrays, penalised, sample
from tlx.decode.stop import BEGIN, FOUND
from tlx.text.generation_rules import GenerationRules


class DecodeSettings(NamedTuple):
    """Static values, for each of which a program is compiled."""

    greedy: bool
    """Always take the likeliest token."""
    truncated: bool
    """Some tokens are ruled out (top-k, top-p or min-p)."""
    penalised: bool
    """Tokens that the text contains already are penalised."""
    buffer_size: int
    """Positions of the output buffer, at least max_tokens."""
    ends: tuple[int, ...]
    """Ids of which each ends a row."""
    pad: int
    """Id after the end of a row."""
    rules: GenerationRules | None
    """Constraints on the ids, with the same ends; None: any id may come anywhere."""


class DecodeInputs(NamedTuple):
    """Values of one call, traced: new values do not compile a new program."""

    keys_B: jax.Array
    """Key of each row; step s of row b draws with fold_in(keys_B[b], s)."""
    max_tokens: jax.Array
    """Largest number of new tokens, eos included; int32 [], or [B, 1] where rows differ."""
    sampling: SamplingArrays
    """Temperature and the like, [], or [B, 1] where rows differ."""
    stops_AV: jax.Array | np.ndarray | None = None
    """Automaton of stop strings (decode/stop.py); None without stop strings."""


class DecodeState(NamedTuple):
    """State of the loop."""

    step: jax.Array
    """Number of tokens drawn so far, int32 []."""
    last_B: jax.Array
    """Last token of each row."""
    counts_B: jax.Array
    """Number of tokens of each row before its end."""
    done_B: jax.Array
    """Whether a row has ended."""
    new_BT: jax.Array
    """New token ids."""
    seen_BV: jax.Array | None
    """Whether the text contains a token; None without a repetition penalty."""
    stop_B: jax.Array | None
    """State of the stop strings' automaton; None without stop strings."""
    memory: Any
    """State of the function that computes logits, such as a KV cache."""


class DecodeText(NamedTuple):
    """Texts that some rules and the repetition penalty compare with."""

    prompt: Padded
    """The prompts, padded on the left."""
    source: Padded | None = None
    """Inputs of the encoder; None for other models."""


def run(
    logits_BV: jax.Array,
    memory: Any,
    advance: Callable[[DecodeState], tuple[jax.Array, Any]],
    inputs: DecodeInputs,
    settings: DecodeSettings,
    text: DecodeText,
) -> tuple[jax.Array, jax.Array]:
    """Draw tokens until all rows have ended or have `max_tokens`.

    A row ends with one of `settings.ends`, which is not counted, or with the token that completes a stop string,
    which is.

    Args:
        logits_BV: Logits of the first token.
        memory: Memory after the prompt.
        advance: Computes the next logits and the new memory from the state.
        inputs: Values of this call.
        settings: Static values.
        text: The prompts, and inputs of the encoder.

    Returns:
        (new token ids [B, T], number of tokens of each row [B]).
    """
    state = begin(logits_BV, memory, inputs, settings, text)
    state = go_on(state, advance, inputs, settings, text, jnp.int32(settings.buffer_size))
    return state.new_BT, state.counts_B


def begin(
    logits_BV: jax.Array, memory: Any, inputs: DecodeInputs, settings: DecodeSettings, text: DecodeText
) -> DecodeState:
    """Draw the first token of each row, whose logits come from the prompt's own pass.

    Args:
        logits_BV: Logits of the first token.
        memory: Memory after the prompt.
        inputs: Values of this call.
        settings: Static values.
        text: The prompts, and inputs of the encoder.

    Returns:
        The state after one token.
    """
    rows_B = jnp.arange(logits_BV.shape[0])
    zeros_B = jnp.zeros_like(rows_B, jnp.int32)
    prompt = text.prompt
    seen_BV = None
    if settings.penalised:
        seen_BV = jnp.zeros(logits_BV.shape, bool).at[rows_B[:, None], prompt.tokens].max(prompt.segments > 0)
    stop_B = None if inputs.stops_AV is None else zeros_B + BEGIN
    empty_BT = jnp.full((len(rows_B), settings.buffer_size), settings.pad, jnp.int32)
    first = DecodeState(jnp.int32(0), zeros_B, zeros_B, zeros_B > 0, empty_BT, seen_BV, stop_B, None)
    return _draw(first, logits_BV, memory, inputs, settings, text)


def go_on(
    state: DecodeState,
    advance: Callable[[DecodeState], tuple[jax.Array, Any]],
    inputs: DecodeInputs,
    settings: DecodeSettings,
    text: DecodeText,
    until: jax.Array,
) -> DecodeState:
    """Draw further tokens until all rows have ended, or have `until` tokens.

    Args:
        state: The state after `begin`, or after an earlier call.
        advance: Computes the next logits and the new memory from the state.
        inputs: Values of this call.
        settings: Static values.
        text: The prompts, and inputs of the encoder.
        until: Number of tokens to stop at, int32 [].

    Returns:
        The state after the last token.
    """
    return jax.lax.while_loop(
        lambda state: (state.step < until) & ~state.done_B.all(),
        lambda state: _draw(state, *advance(state), inputs, settings, text),
        state,
    )


def _draw(
    state: DecodeState,
    logits_BV: jax.Array,
    memory: Any,
    inputs: DecodeInputs,
    settings: DecodeSettings,
    text: DecodeText,
) -> DecodeState:
    """Draw the next token of each row."""
    # By row and step, so that a row draws the same tokens in any batch.
    keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(inputs.keys_B, state.step)
    seen_BV = state.seen_BV
    stop_B = state.stop_B
    if seen_BV is not None:
        logits_BV = penalised(logits_BV, seen_BV, inputs.sampling.repetition_penalty)
    if settings.rules is not None:
        so_far = text_so_far(text.prompt, state.new_BT, state.step, inputs.max_tokens, text.source)
        logits_BV = apply_rules(logits_BV, so_far, settings.rules)
    token_B = sample(logits_BV, keys_B, inputs.sampling, settings.greedy, settings.truncated)
    done_B = state.done_B | is_end(token_B, settings.ends)
    # A row that has ended is computed on with the others: its shape is fixed.
    token_B = jnp.where(done_B, settings.pad, token_B)
    counts_B = state.counts_B + ~done_B
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].set(True)
    if inputs.stops_AV is not None:
        assert stop_B is not None
        stop_B = jnp.where(done_B, stop_B, inputs.stops_AV[stop_B, token_B])
        # After the count: the token that completes a stop string belongs to the text, eos does not.
        done_B |= stop_B == FOUND
    done_B |= state.step + 1 >= inputs.max_tokens.reshape(-1)
    new_BT = jax.lax.dynamic_update_index_in_dim(state.new_BT, token_B, state.step, axis=1)
    return DecodeState(state.step + 1, token_B, counts_B, done_B, new_BT, seen_BV, stop_B, memory)
