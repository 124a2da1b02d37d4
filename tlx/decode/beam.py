"""Beam search through the cached model: the likeliest continuations that a narrow search finds.

The rules are those of `transformers` (early_stopping = False): of the 2K likeliest continuations of a row's
K beams, those that end within the first K compete for the K places of finished ones, by log-probability
over (number of new tokens) ** length_penalty, and the first K that do not end go on; a row is done when its
best running beam, at its present length, is no better than its worst finished one.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.cache_rows import reorder, repeat
from tlx.decode.generate import check, encoded
from tlx.decode.padding import Padded, bucket, pad
from tlx.decode.stop import BEGIN, FOUND
from tlx.nn.cache import KVCache
from tlx.parallel import constrain
from tlx.text.vocabulary import Vocabulary

NONE = -1e9  # the score of what does not exist


class Hypothesis(NamedTuple):
    """A continuation without its prompt and its eos."""

    tokens: list[int]
    score: float  # log-probability / (tokens with the eos) ** length_penalty


class BeamState(NamedTuple):
    """State of the search; K beams in each of B rows, best first."""

    step: jax.Array  # tokens so far
    running_BKN: jax.Array
    log_probs_BK: jax.Array
    finished_BKN: jax.Array
    scores_BK: jax.Array
    counts_BK: jax.Array  # tokens of the finished ones, without eos
    open_B: jax.Array  # rows that may still get better
    stop_BK: jax.Array  # states of the automaton of stop strings
    cache: Any


def beam_search(
    lm: nn.Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    vocab: Vocabulary,
    *,
    num_beams: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    sources: Sequence[Sequence[int]] | None = None,
    max_length: int | None = None,
    batch_size: int = 8,
    stops_SV: np.ndarray | None = None,
) -> list[list[Hypothesis]]:
    """The `num_beams` best continuations of each prompt, best first; arguments as those of `generate`.
    Where a stop string ends one, it is in it.

    Raises ConfigError for a prompt that does not fit, or a model without a cache (two streams).
    """
    check(prompts, sources, max_tokens, max_length)
    if num_beams < 1:
        raise ConfigError(f"num_beams = {num_beams!r} must be at least 1")
    if lm.cfg.kind not in ("decoder", "encoder_decoder"):
        raise ConfigError(f"beam search is for decoders and encoder-decoders, this is {lm.cfg.kind!r}")
    results: list[list[Hypothesis]] = []
    for start in range(0, len(prompts), batch_size):
        rows = list(range(start, min(start + batch_size, len(prompts))))
        prompt = pad([prompts[row] for row in rows], vocab.pad, left=True, limit=max_length)
        source = None
        if sources is not None:
            source = pad([sources[row] for row in rows], vocab.pad, left=False, limit=max_length)
        knobs = BeamInputs(jnp.int32(max_tokens), jnp.float32(length_penalty), stops_SV)
        rules = BeamSettings(num_beams, bucket(max_tokens), vocab.eos)
        found = search(lm, params, prompt, source, knobs, rules)
        tokens, counts, scores = (np.asarray(array) for array in found)
        results += [
            [
                Hypothesis(tokens[row, beam, : counts[row, beam]].tolist(), float(scores[row, beam]))
                for beam in range(num_beams)
                if scores[row, beam] > NONE / 2
            ]
            for row in range(len(rows))
        ]
    return results


class BeamInputs(NamedTuple):
    """What is different for every call."""

    max_tokens: jax.Array  # eos included
    length_penalty: jax.Array
    stops_SV: jax.Array | None  # the automaton of stop strings (decode/stop.py), which end a beam


class BeamSettings(NamedTuple):
    """What is fixed when the search is compiled."""

    num_beams: int
    buffer_size: int
    eos: int


@functools.partial(jax.jit, static_argnames=("lm", "rules"))
def search(
    lm: nn.Module, params: Any, prompt: Padded, source: Padded | None, knobs: BeamInputs, rules: BeamSettings
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(tokens [B, K, room], how many of them count [B, K], scores [B, K]), the best first."""
    num_beams = rules.num_beams
    call = functools.partial(lm.apply, {"params": params})
    batch, width = prompt.tokens.shape
    cache = call(batch, width + rules.buffer_size, *encoded(call, source), method="init_cache")
    lengths_R = jnp.repeat(prompt.segments.sum(axis=1), num_beams)

    def step(tokens: jax.Array, positions: jax.Array, segments: jax.Array, cache: KVCache) -> Any:
        hidden_BTD, cache = call(tokens, positions, segments, cache, method="decode")
        return call(hidden_BTD[:, -1:], method="logits")[:, 0], cache

    def advance(state: BeamState) -> BeamState:
        last_R1 = state.running_BKN[:, :, state.step - 1].reshape(-1, 1)
        positions_R1 = (lengths_R + state.step - 1)[:, None]
        logits_RV, cache = step(last_R1, positions_R1, jnp.ones_like(positions_R1), state.cache)
        return extend(state._replace(cache=cache), logits_RV.reshape(batch, num_beams, -1), knobs, rules)

    def going(state: BeamState) -> jax.Array:
        return (state.step < knobs.max_tokens) & state.open_B.any()

    logits_BV, cache = step(prompt.tokens, prompt.positions, prompt.segments, cache)
    state = _start(batch, rules, repeat(cache, num_beams))
    logits_BKV = jnp.broadcast_to(logits_BV[:, None], (batch, num_beams, logits_BV.shape[-1]))
    state = jax.lax.while_loop(going, advance, extend(state, logits_BKV, knobs, rules))
    found = state.finished_BKN, state.counts_BK, state.scores_BK
    return tuple(constrain(array, (None,) * array.ndim) for array in found)  # whole, on every process


def extend(state: BeamState, logits_BKV: jax.Array, knobs: BeamInputs, rules: BeamSettings) -> BeamState:
    """One more token for every beam."""
    batch, num_beams, vocab_size = logits_BKV.shape
    log_probs = jax.nn.log_softmax(logits_BKV, axis=-1) + state.log_probs_BK[:, :, None]
    best_BC, flat_BC = jax.lax.top_k(log_probs.reshape(batch, -1), 2 * num_beams)
    parent_BC, token_BC = flat_BC // vocab_size, (flat_BC % vocab_size).astype(jnp.int32)
    text_BCN = jnp.take_along_axis(state.running_BKN, parent_BC[:, :, None], axis=1)
    text_BCN = jax.lax.dynamic_update_index_in_dim(text_BCN, token_BC, state.step, axis=2)
    length = state.step + 1
    stop_BC = jnp.take_along_axis(state.stop_BK, parent_BC, axis=1)
    if knobs.stops_SV is not None:
        stop_BC = knobs.stops_SV[stop_BC, token_BC]
    ends_BC = (token_BC == rules.eos) | (stop_BC == FOUND) | (length >= knobs.max_tokens)

    scores_BC = best_BC / length.astype(jnp.float32) ** knobs.length_penalty
    first_C = jnp.arange(2 * num_beams) < num_beams
    counted_BC = ends_BC & first_C & state.open_B[:, None] & (best_BC > NONE / 2)
    scores_BC = jnp.where(counted_BC, scores_BC, NONE)
    counts_BC = jnp.where(token_BC == rules.eos, length - 1, length)
    old = (state.finished_BKN, state.scores_BK, state.counts_BK)
    merged = [
        jnp.concatenate(pair, axis=1) for pair in zip(old, (text_BCN, scores_BC, counts_BC), strict=True)
    ]
    kept_BK = jax.lax.top_k(merged[1], num_beams)[1]
    finished_BKN, scores_BK, counts_BK = (_pick(array, kept_BK) for array in merged)

    on_BK, going_BK = jax.lax.top_k(jnp.where(ends_BC, NONE, best_BC), num_beams)
    parents_BK = jnp.take_along_axis(parent_BC, going_BK, axis=1)
    possible_B = on_BK[:, 0] / length.astype(jnp.float32) ** knobs.length_penalty
    return BeamState(
        length,
        _pick(text_BCN, going_BK),
        on_BK,
        finished_BKN,
        scores_BK,
        counts_BK,
        state.open_B & (possible_B > scores_BK.min(axis=1)),
        _pick(stop_BC, going_BK),
        reorder(state.cache, parents_BK),
    )


def _start(batch: int, rules: BeamSettings, cache: Any) -> BeamState:
    """All beams are the prompt, and only the first counts."""
    nothing_BK = jnp.full((batch, rules.num_beams), NONE)
    empty_BKN = jnp.zeros((batch, rules.num_beams, rules.buffer_size), jnp.int32)
    counts_BK = jnp.zeros((batch, rules.num_beams), jnp.int32)
    first_BK = nothing_BK.at[:, 0].set(0.0)
    every_B = jnp.ones(batch, bool)
    found = (empty_BKN, nothing_BK, counts_BK)
    return BeamState(jnp.int32(0), empty_BKN, first_BK, *found, every_B, counts_BK + BEGIN, cache)


def _pick(array: jax.Array, index_BK: jax.Array) -> jax.Array:
    index = index_BK.reshape(index_BK.shape + (1,) * (array.ndim - 2))
    return jnp.take_along_axis(array, index, axis=1)
