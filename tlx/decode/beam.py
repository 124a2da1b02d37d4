"""Beam search through the cached model.

The rules are those of `transformers` (early_stopping = False). Of the (1 + E) K likeliest continuations of a row's
K beams, where E ids end a text, those that end within the first K compete for the K finished hypotheses, by
log-probability over (number of new tokens) ** length_penalty; the first K that do not end stay running. A row is done
when its best running beam, at its present length, is no better than its worst finished hypothesis.

Shapes: A states of the automaton, U candidates of a row ((1 + E) K), W rows of the cache (B times K).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.cache_rows import reorder, repeat
from tlx.decode.cached import Tokens, encoded
from tlx.decode.constraints import apply_rules, is_end, text_so_far
from tlx.decode.generate import check, resolved_rules
from tlx.decode.padding import Padded, bucket, pad
from tlx.decode.stop import BEGIN, FOUND
from tlx.nn.cache import KVCache
from tlx.parallel import constrain
from tlx.text.generation_rules import GenerationRules
from tlx.text.vocabulary import Vocabulary

# Score of a hypothesis that does not exist; finite, so that arithmetic with it gives no nan.
NONE = -1e9


class Hypothesis(NamedTuple):
    """A continuation of a prompt."""

    tokens: list[int]
    """Token ids without the prompt and without the id that ended it."""
    score: float
    """Log-probability / (number of tokens with the end) ** length_penalty."""


class BeamState(NamedTuple):
    """State of the search; K beams in each of B rows, best first."""

    step: jax.Array
    """Number of tokens so far, int32 []."""
    running_BKT: jax.Array
    """Token ids of the running beams."""
    log_probs_BK: jax.Array
    """Log-probabilities of the running beams."""
    finished_BKT: jax.Array
    """Token ids of the finished hypotheses."""
    scores_BK: jax.Array
    """Scores of the finished hypotheses; NONE where there is none."""
    counts_BK: jax.Array
    """Number of tokens of the finished hypotheses, without the end."""
    open_B: jax.Array
    """Whether a row may still find a better hypothesis."""
    stop_BK: jax.Array
    """State of the stop strings' automaton of each running beam."""
    cache: Any
    """The model's KV cache, with B K rows."""


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
    stops_AV: np.ndarray | None = None,
    rules: GenerationRules | None = None,
) -> list[list[Hypothesis]]:
    """Search the `num_beams` best continuations of each prompt.

    Args:
        lm: A Transformer of kind decoder or encoder_decoder.
        params: Its parameters.
        prompts: Token ids to continue; of an encoder-decoder the beginnings of the decoder's input.
        vocab: The vocabulary, for its pad and eos.
        num_beams: Number of beams, 1 or more.
        max_tokens: Largest number of new tokens, eos included.
        length_penalty: Exponent of the length by which log-probabilities are divided.
        sources: Token ids that the encoder reads, one sequence per prompt; None for a decoder.
        max_length: Number of positions of the model; None: no limit.
        batch_size: Prompts per batch.
        stops_AV: `decode.stop.automaton` of strings that end a hypothesis, which then contains the string.
        rules: Ids that end a hypothesis, and constraints on the others; None: eos ends it, and any id may come.

    Returns:
        Hypotheses of each prompt, best first.

    Raises:
        ConfigError: a prompt does not fit, or the model has no cache (two streams).
    """
    check(prompts, sources, max_tokens, max_length)
    if num_beams < 1:
        raise ConfigError(f"num_beams = {num_beams!r} must be at least 1")
    if lm.cfg.kind not in ("decoder", "encoder_decoder"):
        raise ConfigError(f"beam search is for decoders and encoder-decoders, this is {lm.cfg.kind!r}")
    ends, rules = resolved_rules(rules, vocab)
    settings = BeamSettings(num_beams, bucket(max_tokens), ends, rules)
    results: list[list[Hypothesis]] = []
    for start in range(0, len(prompts), batch_size):
        rows = list(range(start, min(start + batch_size, len(prompts))))
        prompt = pad([prompts[row] for row in rows], vocab.pad, left=True, limit=max_length)
        source = None
        if sources is not None:
            source = pad([sources[row] for row in rows], vocab.pad, left=False, limit=max_length)
        inputs = BeamInputs(jnp.int32(max_tokens), jnp.float32(length_penalty), stops_AV)
        outputs = search(lm, params, prompt, source, inputs, settings)
        tokens, counts, scores = (np.asarray(array) for array in outputs)
        results += [
            [
                Hypothesis(tokens[row, beam, : counts[row, beam]].tolist(), float(scores[row, beam]))
                for beam in range(num_beams)
                # NONE plus a few log-probabilities is still far below half of it.
                if scores[row, beam] > NONE / 2
            ]
            for row in range(len(rows))
        ]
    return results


class BeamInputs(NamedTuple):
    """Values of one call, traced: new values do not compile a new program."""

    max_tokens: jax.Array
    """Largest number of new tokens, eos included."""
    length_penalty: jax.Array
    """Exponent of the length by which log-probabilities are divided."""
    stops_AV: jax.Array | np.ndarray | None
    """Automaton of stop strings (decode/stop.py), which end a beam; None without stop strings."""


class BeamSettings(NamedTuple):
    """Static values, for each of which a program is compiled."""

    num_beams: int
    """Number of hypotheses of each prompt."""
    buffer_size: int
    """Positions of the output buffer, at least max_tokens."""
    ends: tuple[int, ...]
    """Ids of which each ends a hypothesis."""
    rules: GenerationRules | None = None
    """Constraints on the ids, with the same ends; None: any id may come anywhere."""


@functools.partial(jax.jit, static_argnames=("lm", "settings"))
def search(
    lm: nn.Module,
    params: Any,
    prompt: Padded,
    source: Padded | None,
    inputs: BeamInputs,
    settings: BeamSettings,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Search one batch.

    Args:
        lm: The model; static.
        params: Its parameters.
        prompt: Prompts, padded on the left.
        source: Inputs of the encoder, padded on the right; None for a decoder.
        inputs: Values of this call.
        settings: Static values.

    Returns:
        (token ids [B, K, T], number of tokens [B, K], scores [B, K]) of the hypotheses, best first.
    """
    num_beams = settings.num_beams
    # `apply` is typed as a union over `mutable`, which is not used here.
    call = cast(Any, functools.partial(lm.apply, {"params": params}))
    batch, width = prompt.tokens.shape
    cache = call(batch, width + settings.buffer_size, *encoded(call, source), method="init_cache")
    lengths_W = jnp.repeat(prompt.segments.sum(axis=1), num_beams)

    def step(tokens: Tokens, positions: Tokens, segments: Tokens, cache: KVCache) -> Any:
        hidden_BTD, cache = call(tokens, positions, segments, cache, method="decode")
        return call(hidden_BTD[:, -1:], method="logits")[:, 0], cache

    def advance(state: BeamState) -> BeamState:
        last_W1 = state.running_BKT[:, :, state.step - 1].reshape(-1, 1)
        positions_W1 = (lengths_W + state.step - 1)[:, None]
        logits_WV, cache = step(last_W1, positions_W1, jnp.ones_like(positions_W1), state.cache)
        logits_BKV = logits_WV.reshape(batch, num_beams, -1)
        return extend(state._replace(cache=cache), scored(state, logits_BKV), inputs, settings)

    def scored(state: BeamState, logits_BKV: jax.Array) -> jax.Array:
        log_probs_BKV = jax.nn.log_softmax(logits_BKV, axis=-1)
        if settings.rules is None:
            return log_probs_BKV
        running_WT = state.running_BKT.reshape(batch * num_beams, -1)
        text = text_so_far(prompt, running_WT, state.step, inputs.max_tokens, source)
        log_probs_WV = log_probs_BKV.reshape(batch * num_beams, -1)
        return apply_rules(log_probs_WV, text, settings.rules).reshape(log_probs_BKV.shape)

    def is_running(state: BeamState) -> jax.Array:
        return (state.step < inputs.max_tokens) & state.open_B.any()

    logits_BV, cache = step(prompt.tokens, prompt.positions, prompt.segments, cache)
    state = _initial_state(batch, settings, repeat(cache, num_beams))
    logits_BKV = jnp.broadcast_to(logits_BV[:, None], (batch, num_beams, logits_BV.shape[-1]))
    state = extend(state, scored(state, logits_BKV), inputs, settings)
    state = jax.lax.while_loop(is_running, advance, state)
    # Replicated, so that every process can read all rows.
    return (
        constrain(state.finished_BKT, (None, None, None)),
        constrain(state.counts_BK, (None, None)),
        constrain(state.scores_BK, (None, None)),
    )


def extend(
    state: BeamState, log_probs_BKV: jax.Array, inputs: BeamInputs, settings: BeamSettings
) -> BeamState:
    """Add one token to every beam.

    Args:
        state: State before the token.
        log_probs_BKV: Log-probabilities of the token of each running beam.
        inputs: Values of this call.
        settings: Static values.

    Returns:
        The state after the token.
    """
    batch, num_beams, vocab_size = log_probs_BKV.shape
    # So many that num_beams of them do not end, whatever the beams' best tokens are.
    num_candidates = min((1 + len(settings.ends)) * num_beams, num_beams * vocab_size)
    totals_BKV = log_probs_BKV + state.log_probs_BK[:, :, None]
    best_BU, flat_BU = jax.lax.top_k(totals_BKV.reshape(batch, -1), num_candidates)
    parent_BU = flat_BU // vocab_size
    token_BU = (flat_BU % vocab_size).astype(jnp.int32)
    text_BUT = jnp.take_along_axis(state.running_BKT, parent_BU[:, :, None], axis=1)
    text_BUT = jax.lax.dynamic_update_index_in_dim(text_BUT, token_BU, state.step, axis=2)
    length = state.step + 1
    stop_BU = jnp.take_along_axis(state.stop_BK, parent_BU, axis=1)
    if inputs.stops_AV is not None:
        stop_BU = inputs.stops_AV[stop_BU, token_BU]
    is_end_BU = is_end(token_BU, settings.ends)
    ends_BU = is_end_BU | (stop_BU == FOUND) | (length >= inputs.max_tokens)

    scores_BU = best_BU / length.astype(jnp.float32) ** inputs.length_penalty
    first_U = jnp.arange(num_candidates) < num_beams
    counted_BU = ends_BU & first_U & state.open_B[:, None] & (best_BU > NONE / 2)
    scores_BU = jnp.where(counted_BU, scores_BU, NONE)
    counts_BU = jnp.where(is_end_BU, length - 1, length)
    # Old and new finished hypotheses compete; the old ones come first, so that they win ties.
    old = (state.finished_BKT, state.scores_BK, state.counts_BK)
    merged = [
        jnp.concatenate(pair, axis=1) for pair in zip(old, (text_BUT, scores_BU, counts_BU), strict=True)
    ]
    best_BK = jax.lax.top_k(merged[1], num_beams)[1]
    finished_BKT, scores_BK, counts_BK = (_pick(array, best_BK) for array in merged)

    # The best candidates that do not end become the running beams.
    log_probs_BK, running_BK = jax.lax.top_k(jnp.where(ends_BU, NONE, best_BU), num_beams)
    parents_BK = jnp.take_along_axis(parent_BU, running_BK, axis=1)
    possible_B = log_probs_BK[:, 0] / length.astype(jnp.float32) ** inputs.length_penalty
    return BeamState(
        length,
        _pick(text_BUT, running_BK),
        log_probs_BK,
        finished_BKT,
        scores_BK,
        counts_BK,
        state.open_B & (possible_B > scores_BK.min(axis=1)),
        _pick(stop_BU, running_BK),
        reorder(state.cache, parents_BK),
    )


def _initial_state(batch: int, settings: BeamSettings, cache: Any) -> BeamState:
    """Return the state in which all beams are the prompt, and only the first has a chance."""
    nothing_BK = jnp.full((batch, settings.num_beams), NONE)
    empty_BKT = jnp.zeros((batch, settings.num_beams, settings.buffer_size), jnp.int32)
    counts_BK = jnp.zeros((batch, settings.num_beams), jnp.int32)
    return BeamState(
        step=jnp.int32(0),
        running_BKT=empty_BKT,
        # Equal beams would all find the same K candidates, K times.
        log_probs_BK=nothing_BK.at[:, 0].set(0.0),
        finished_BKT=empty_BKT,
        scores_BK=nothing_BK,
        counts_BK=counts_BK,
        open_B=jnp.ones(batch, bool),
        stop_BK=counts_BK + BEGIN,
        cache=cache,
    )


def _pick(array: jax.Array, index_BK: jax.Array) -> jax.Array:
    """Gather along axis 1, for an array of any rank."""
    index = index_BK.reshape(index_BK.shape + (1,) * (array.ndim - 2))
    return jnp.take_along_axis(array, index, axis=1)
