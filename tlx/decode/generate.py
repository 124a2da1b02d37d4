"""Batched continuation of prompts through the cached model: one prefill, then one token at a time.

Prompts of different lengths are padded on the left (segment 0), so that all rows write the same slot of
the cache at each step. Shapes are rounded up to powers of two: a program is compiled once per bucket.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.sampling import Knobs, Sampling, knobs, sample
from tlx.text.vocabulary import Vocabulary

SMALLEST_BUCKET = 16


class Padded(NamedTuple):
    """Sequences of different lengths as arrays."""

    tokens: np.ndarray  # int32 [B, T]
    segments: np.ndarray  # int32 [B, T]: 1, and 0 for padding
    positions: np.ndarray  # int32 [B, T]: from 0 at each row's first token


def generate(
    lm: nn.Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    vocab: Vocabulary,
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    sources: Sequence[Sequence[int]] | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
) -> list[list[int]]:
    """Continuations of `prompts` (token ids), each without its prompt and without the eos that ended it.

    `lm` is a tlx.models Transformer and `params` its own parameters. With `sources` it is an
    encoder-decoder: source i is encoded, and prompt i begins the decoder's side. `max_length` is the
    longest sequence the model has positions for (None: no limit). Prompt i draws from
    fold_in(key(seed), i), whatever else is in its batch.
    """
    sampling.validate()
    _check(prompts, sources, max_tokens, max_length)
    outputs: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        rows = np.arange(start, min(start + batch_size, len(prompts)))
        # Rows that fill the batch up to its bucket repeat the last prompt and are thrown away.
        rows = np.pad(rows, (0, bucket(len(rows), 1) - len(rows)), mode="edge")
        prompt = pad([prompts[row] for row in rows], vocab.pad, left=True, limit=max_length)
        source = None
        if sources is not None:
            source = pad([sources[row] for row in rows], vocab.pad, left=False, limit=max_length)
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), rows)
        new_BN, counts_B = _continue(
            lm, params, prompt, source, keys_B, jnp.int32(max_tokens), knobs(sampling),
            greedy=sampling.greedy, truncated=sampling.truncated,
            room=bucket(max_tokens), eos=vocab.eos, pad_id=vocab.pad,
        )  # fmt: skip
        num_real = min(batch_size, len(prompts) - start)
        new_BN, counts_B = np.asarray(new_BN), np.asarray(counts_B)
        outputs += [new_BN[row, : counts_B[row]].tolist() for row in range(num_real)]
    return outputs


def bucket(length: int, smallest: int = SMALLEST_BUCKET) -> int:
    """The power of two from `smallest` up that holds `length`."""
    return max(smallest, 1 << max(0, length - 1).bit_length())


def pad(sequences: Sequence[Sequence[int]], pad_id: int, *, left: bool, limit: int | None = None) -> Padded:
    """Stacks sequences at the width of their bucket (at most `limit`), padded on one side."""
    longest = max(len(sequence) for sequence in sequences)
    width = max(longest, min(bucket(longest), limit or bucket(longest)))
    tokens = np.full((len(sequences), width), pad_id, np.int32)
    segments = np.zeros((len(sequences), width), np.int32)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        tokens[row, place] = sequence
        segments[row, place] = 1
    return Padded(tokens, segments, np.maximum(np.cumsum(segments, axis=1) - 1, 0).astype(np.int32))


class _Loop(NamedTuple):
    step: jax.Array  # tokens drawn so far
    last_B: jax.Array
    counts_B: jax.Array  # tokens of each row before its eos
    done_B: jax.Array
    new_BN: jax.Array
    cache: Any


@functools.partial(
    jax.jit, static_argnames=("lm", "greedy", "truncated", "room", "eos", "pad_id"), static_argnums=0
)
def _continue(
    lm: nn.Module,
    params: Any,
    prompt: Padded,
    source: Padded | None,
    keys_B: jax.Array,
    max_tokens: jax.Array,
    values: Knobs,
    *,
    greedy: bool,
    truncated: bool,
    room: int,
    eos: int,
    pad_id: int,
) -> tuple[jax.Array, jax.Array]:
    """New tokens [B, room] and how many of each row count."""
    call = functools.partial(lm.apply, {"params": params})
    batch, width = prompt.tokens.shape
    cache = call(batch, width + room, *_encode(call, source), method="init_cache")
    hidden_BTD, cache = call(prompt.tokens, prompt.positions, prompt.segments, cache, method="decode")
    lengths_B = prompt.segments.sum(axis=1)

    def draw(state: _Loop, hidden_BTD: jax.Array, cache: Any) -> _Loop:
        logits_BV = call(hidden_BTD[:, -1:], method="logits")[:, 0]
        step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, state.step)
        token_B = sample(logits_BV, step_keys_B, values, greedy, truncated)
        done_B = state.done_B | (token_B == eos)
        token_B = jnp.where(done_B, pad_id, token_B)
        return _Loop(
            state.step + 1, token_B, state.counts_B + ~done_B, done_B,
            jax.lax.dynamic_update_index_in_dim(state.new_BN, token_B, state.step, axis=1), cache,
        )  # fmt: skip

    def advance(state: _Loop) -> _Loop:
        positions_B1 = (lengths_B + state.step - 1)[:, None]
        segments_B1 = jnp.ones_like(positions_B1)
        hidden_B1D, cache = call(
            state.last_B[:, None], positions_B1, segments_B1, state.cache, method="decode"
        )
        return draw(state, hidden_B1D, cache)

    none_B = jnp.zeros(batch, jnp.int32)
    blank = _Loop(jnp.int32(0), none_B, none_B, none_B > 0, jnp.full((batch, room), pad_id, jnp.int32), None)
    state = jax.lax.while_loop(
        lambda state: (state.step < max_tokens) & ~state.done_B.all(), advance, draw(blank, hidden_BTD, cache)
    )
    return state.new_BN, state.counts_B


def _encode(call: Any, source: Padded | None) -> tuple[Any, ...]:
    """Arguments of `init_cache` that come from the encoder."""
    if source is None:
        return ()
    batch = {"encoder_" + name: value for name, value in source._asdict().items()}
    return call(batch, method="encode"), source.segments


def _check(prompts: Sequence, sources: Sequence | None, max_tokens: int, max_length: int | None) -> None:
    if max_tokens < 1:
        raise ConfigError(f"max_tokens = {max_tokens!r} must be at least 1")
    for number, source in enumerate(sources or ()):
        if not 0 < len(source) <= (max_length or len(source)):
            raise ConfigError(
                f"source {number} has {len(source)} tokens; the model reads 1 to {max_length or 'any number'}"
            )
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ConfigError(f"prompt {number} has no tokens: there is nothing to continue from")
        if max_length is not None and len(prompt) + max_tokens > max_length:
            raise ConfigError(
                f"prompt {number} has {len(prompt)} tokens; with max_tokens = {max_tokens} that is more than "
                f"the {max_length} positions of the model: shorten it, or set max_tokens to at most "
                f"{max(0, max_length - len(prompt))}"
            )
