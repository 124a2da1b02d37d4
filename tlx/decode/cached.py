"""Continuation through the key/value cache: in one program, or a few tokens at a time.

A few at a time, a caller shows tokens as they come, ends rows early, and starts from keys and values that an earlier
call left (decode/prefixes.py). The cache then begins small and doubles when it is full, since attention reads all of
its entries at every token, filled or not.

Shapes: I positions of a stored prefix.
"""

import functools
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.decode.loop import DecodeInputs, DecodeSettings, DecodeState, DecodeText, begin, go_on, run
from tlx.decode.padding import Padded, bucket
from tlx.nn import cache as caches
from tlx.nn.cache import KVCache
from tlx.parallel import constrain

Tokens = jax.Array | np.ndarray

# Entries of the cache that a continuation begins with, at least. Below it, reading all costs next to nothing and
# one program serves all lengths.
SMALLEST_CAPACITY = 256


class PrefixArrays(NamedTuple):
    """Keys and values of the first tokens of each row, which are not read again."""

    key_LBIGH: jax.Array
    """Keys, padded on the left."""
    value_LBIGH: jax.Array
    """Values."""
    segments_BI: np.ndarray
    """1 for a token, 0 for padding, int32."""


class Chunk(NamedTuple):
    """State of the rows of a batch after some more tokens."""

    tokens_BT: np.ndarray
    """New tokens since the continuation began; int32 [B, T], of which `counts_B` are valid."""
    counts_B: np.ndarray
    """Number of tokens of each row before its end."""
    done_B: np.ndarray
    """Whether a row has ended."""


class ChunkedDecoding:
    """The continuation of one batch, a few tokens at a time; whatever the sizes of its chunks, it is the same."""

    def __init__(
        self,
        lm: nn.Module,
        params: Any,
        rest: Padded,
        source: Padded | None,
        inputs: DecodeInputs,
        settings: DecodeSettings,
        prompt: Padded | None = None,
        prefix: PrefixArrays | None = None,
    ):
        """Read the prompts and draw the first token of each row.

        Args:
            lm: A decoder or an encoder-decoder.
            params: Its parameters.
            rest: Tokens that are read: the prompts, without `prefix`, padded on the left.
            source: Inputs of the encoder, padded on the right; None for a decoder.
            inputs: Values of this call.
            settings: Static values.
            prompt: The whole prompts, which rules and penalties count; None: `rest`.
            prefix: Keys and values of the tokens before `rest`; a row of `rest` with padding has none.
        """
        self._static = (lm, settings)
        self._params = params
        self._inputs = inputs
        self._text = DecodeText(rest if prompt is None else prompt, source)
        self._max_tokens = int(np.max(inputs.max_tokens))
        self._width = rest.tokens.shape[1]
        self.lengths_B = rest.segments.sum(axis=1, dtype=np.int32)
        if prefix is not None:
            self._width += prefix.segments_BI.shape[1]
            self.lengths_B = self.lengths_B + prefix.segments_BI.sum(axis=1, dtype=np.int32)
        self._full = self._width + settings.buffer_size
        self._capacity = min(self._full, bucket(self._width + 1, SMALLEST_CAPACITY))
        self._state = _begin_cached(
            *self._static, params, rest, self._text, inputs, prefix, capacity=self._capacity
        )
        self._step = 1

    def advance(self, num_tokens: int, ended_B: np.ndarray | None = None) -> Chunk:
        """Draw further tokens of each row.

        Args:
            num_tokens: Largest number of them.
            ended_B: Rows that the caller wants no more of; None: none.

        Returns:
            What all rows have then.
        """
        until = min(self._step + num_tokens, self._max_tokens)
        if ended_B is not None:
            self._state = self._state._replace(done_B=self._state.done_B | ended_B)
        while True:
            # The last token that is drawn is not in the cache yet.
            fitting = min(until, self._capacity - self._width + 1)
            self._state = _go_on_cached(
                *self._static,
                self._params,
                self._state,
                self._text,
                self._inputs,
                self.lengths_B,
                np.int32(fitting),
            )
            done_B = np.asarray(self._state.done_B)
            if fitting == until or done_B.all():
                break
            self._capacity = min(self._full, 2 * self._capacity)
            self._state = self._state._replace(memory=_grown(self._state.memory, capacity=self._capacity))
        self._step = until
        return Chunk(np.asarray(self._state.new_BT), np.asarray(self._state.counts_B), done_B)

    @property
    def num_read(self) -> int:
        """Number of new tokens that are in the cache: all but the last one."""
        return int(self._state.step) - 1

    def stored_row(self, row: int) -> tuple[jax.Array, jax.Array, int]:
        """Return keys [L, S, G, H], values and the entry of S that holds the row's first token."""
        cache = self._state.memory
        first = self._width - int(self.lengths_B[row])
        return cache.key[:, row], cache.value[:, row], first


@functools.partial(jax.jit, static_argnames=("lm", "settings"))
def continue_cached(
    lm: nn.Module,
    params: Any,
    prompt: Padded,
    source: Padded | None,
    inputs: DecodeInputs,
    settings: DecodeSettings,
) -> tuple[jax.Array, jax.Array]:
    """Continue one batch of prompts in one program, for use inside others.

    Args:
        lm: The model; static.
        params: Its parameters.
        prompt: Prompts, padded on the left.
        source: Inputs of the encoder, padded on the right; None for a decoder.
        inputs: Values of this call.
        settings: Static values.

    Returns:
        (new token ids [B, T], number of tokens of each row [B]).
    """
    capacity = prompt.tokens.shape[1] + settings.buffer_size
    logits_BV, cache = _read(lm, params, prompt, source, None, capacity)
    advance = _advance(lm, params, prompt.segments.sum(axis=1))
    new_BT, counts_B = run(logits_BV, cache, advance, inputs, settings, DecodeText(prompt, source))
    # Replicated, so that every process can read all rows.
    return constrain(new_BT, (None, None)), constrain(counts_B, (None,))


def encoded(call: Any, source: Padded | None) -> tuple[Any, ...]:
    """Return the arguments of `init_cache` that come from the encoder."""
    if source is None:
        return ()
    batch = {"encoder_" + name: value for name, value in source._asdict().items()}
    return call(batch, method="encode"), source.segments


@functools.partial(jax.jit, static_argnames=("lm", "settings", "capacity"))
def _begin_cached(
    lm: nn.Module,
    settings: DecodeSettings,
    params: Any,
    rest: Padded,
    text: DecodeText,
    inputs: DecodeInputs,
    prefix: PrefixArrays | None,
    capacity: int,
) -> DecodeState:
    """Return the state after the first token."""
    logits_BV, cache = _read(lm, params, rest, text.source, prefix, capacity)
    return _readable(begin(logits_BV, cache, inputs, settings, text))


# The state is donated: two caches would be in memory otherwise.
@functools.partial(jax.jit, static_argnames=("lm", "settings"), donate_argnames="state")
def _go_on_cached(
    lm: nn.Module,
    settings: DecodeSettings,
    params: Any,
    state: DecodeState,
    text: DecodeText,
    inputs: DecodeInputs,
    lengths_B: jax.Array,
    until: jax.Array,
) -> DecodeState:
    """Return the state after `until` tokens, or where all rows have ended."""
    return _readable(go_on(state, _advance(lm, params, lengths_B), inputs, settings, text, until))


@functools.partial(jax.jit, static_argnames="capacity")
def _grown(cache: KVCache, capacity: int) -> KVCache:
    """Return a cache with more entries."""
    return caches.grown(cache, capacity)


def _readable(state: DecodeState) -> DecodeState:
    """Replicate what the host reads, so that every process can read all rows."""
    return state._replace(
        new_BT=constrain(state.new_BT, (None, None)),
        counts_B=constrain(state.counts_B, (None,)),
        done_B=constrain(state.done_B, (None,)),
    )


def _read(
    lm: nn.Module,
    params: Any,
    rest: Padded,
    source: Padded | None,
    prefix: PrefixArrays | None,
    capacity: int,
) -> tuple[jax.Array, KVCache]:
    """Run the model over the prompts; return logits [B, V] of the first token, and the cache."""
    # `apply` is typed as a union over `mutable`, which is not used here.
    call = cast(Any, functools.partial(lm.apply, {"params": params}))
    cache = call(len(rest.tokens), capacity, *encoded(call, source), method="init_cache")
    positions_BT = rest.positions
    if prefix is not None:
        cache = caches.filled(cache, prefix.key_LBIGH, prefix.value_LBIGH, prefix.segments_BI)
        positions_BT = positions_BT + prefix.segments_BI.sum(axis=1, dtype=jnp.int32)[:, None]
    return _step(call, rest.tokens, positions_BT, rest.segments, cache)


def _advance(lm: nn.Module, params: Any, lengths_B: Tokens) -> Any:
    """Return the function that reads the last token of each row."""
    call = cast(Any, functools.partial(lm.apply, {"params": params}))

    def advance(state: DecodeState) -> tuple[jax.Array, Any]:
        positions_B1 = (lengths_B + state.step - 1)[:, None]
        return _step(call, state.last_B[:, None], positions_B1, jnp.ones_like(positions_B1), state.memory)

    return advance


def _step(call: Any, tokens: Tokens, positions: Tokens, segments: Tokens, cache: KVCache) -> Any:
    """Read tokens [B, T]; return logits [B, V] after the last one, and the cache."""
    hidden_BTD, cache = call(tokens, positions, segments, cache, method="decode")
    # Logits of the last position only: those of a whole prompt would be [T, V].
    return call(hidden_BTD[:, -1:], method="logits")[:, 0], cache
