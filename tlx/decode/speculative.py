"""Speculative decoding: a drafter proposes tokens, the model reads them in one pass and keeps those that fit.

Leviathan et al. 2023 (Fast Inference from Transformers via Speculative Decoding, ICML, algorithm 1): a draft x of the
drafter's distribution q is kept with probability min(1, p(x) / q(x)), p being the model's. The first that
is not is drawn again from max(0, p - q), normalised; after K that are kept another token is drawn from p. The text
has the model's distribution. With greedy decoding a draft is kept where it is the model's likeliest
token, and the text is that of plain greedy decoding.

The drafter is a small model or heads of the model itself (drafters.py). The rule asks of q only that it is fixed
before its draft is drawn: a chain of drafts of Medusa's heads, each independent of the drafts before it, is exact
too. (Cai et al. 2024 read a tree of the heads' candidates, and keep them by a rule of their own, "typical
acceptance", which changes the distribution; tlx has neither.)

Both distributions are those after temperature, top-k, top-p and min-p. A row is a batch of its own, since rows keep
different numbers of drafts.

Shapes: A states of the automaton of stop strings.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.constraints import is_end
from tlx.decode.drafters import Drafter, Read
from tlx.decode.generate import check, settings_of
from tlx.decode.loop import DecodeSettings
from tlx.decode.padding import Padded, pad
from tlx.decode.sampling import Sampling, SamplingArrays, sampling_arrays, truncate
from tlx.decode.stop import BEGIN, FOUND
from tlx.nn.cache import KVCache
from tlx.text.generation_rules import GenerationRules
from tlx.text.vocabulary import Vocabulary

_DRAFT = 0
_KEEP = 1
_AGAIN = 2


class SpeculativeText(NamedTuple):
    """A continuation, and how well the drafts were."""

    tokens: list[int]
    """New token ids, without the id that ended the row."""
    num_passes: int
    """Passes of the model after the prompt's, which gives one token: each gives 1 to K + 1 tokens."""


class _State(NamedTuple):
    """State of the loop."""

    step: jax.Array
    """Number of passes."""
    last_B: jax.Array
    """Last token, which the model has not read."""
    count: jax.Array
    """Number of tokens so far."""
    done: jax.Array
    """Whether the row has ended."""
    new_T: jax.Array
    """New token ids; those after `count` are none."""
    stop: jax.Array
    """State of the automaton of stop strings."""
    cache: KVCache
    """Keys and values of the model."""
    drafter: Any
    """State of the drafter."""


class _Inputs(NamedTuple):
    """Values of a call."""

    key: jax.Array
    """Random key of the row."""
    max_tokens: jax.Array
    """Largest number of new tokens."""
    sampling: SamplingArrays
    """Temperature and the like."""
    stops_AV: jax.Array | np.ndarray | None
    """Automaton of stop strings."""


def generate_speculative(
    lm: nn.Module,
    params: Any,
    drafter: Drafter,
    prompts: Sequence[Sequence[int]],
    vocab: Vocabulary,
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    max_length: int | None = None,
    stops_AV: np.ndarray | None = None,
    rules: GenerationRules | None = None,
) -> list[SpeculativeText]:
    """Continue each prompt, as `decode.generate.generate` does, in fewer passes of the model.

    Args:
        lm: The model, a decoder.
        params: Its parameters.
        drafter: Source of drafts, with the same vocabulary.
        prompts: Token ids to continue.
        vocab: The vocabulary.
        max_tokens: Largest number of new tokens, the end included.
        sampling: How tokens are drawn.
        seed: Seed; prompt i draws from fold_in(key(seed), i).
        max_length: Number of positions that model and drafter have; None: no limit.
        stops_AV: `decode.stop.automaton` of strings that end a row.
        rules: Ids that end a row; others are refused.

    Returns:
        The continuation of each prompt.

    Raises:
        ConfigError: sampling or a rule is not one that drafts can follow, or a prompt does not fit.
    """
    sampling.validate()
    check(prompts, None, max_tokens, max_length)
    settings = settings_of(sampling, max_tokens, vocab, rules)
    if sampling.penalised or settings.rules is not None:
        raise ConfigError(
            "drafts are judged by distributions that do not depend on one another: repetition_penalty, and rules of "
            "a generation_config.json that forbid tokens, are for decoding without drafts"
        )
    results = []
    for number, prompt in enumerate(prompts):
        key = jax.random.fold_in(jax.random.key(seed), number)
        inputs = _Inputs(key, jnp.int32(max_tokens), sampling_arrays(sampling), stops_AV)
        padded = pad([prompt], vocab.pad, left=True, limit=max_length)
        new_T, count, step = _continue(lm, settings, params, drafter, padded, inputs)
        results.append(SpeculativeText(np.asarray(new_T)[: int(count)].tolist(), int(step)))
    return results


@functools.partial(jax.jit, static_argnames=("lm", "settings"))
def _continue(
    lm: nn.Module, settings: DecodeSettings, params: Any, drafter: Any, prompt: Padded, inputs: _Inputs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (new tokens [T], how many, passes of the model)."""
    call = cast(Any, functools.partial(lm.apply, {"params": params}))
    num_drafts = drafter.num_drafts
    # A pass writes num_drafts + 1 entries, of which the next overwrites those that were not kept.
    capacity = prompt.tokens.shape[1] + settings.buffer_size + num_drafts + 1
    length = prompt.segments.sum()
    # Drafts after the last token that is wanted stand at its position: the models may have no further one.
    last_position = length + inputs.max_tokens - 1
    steps_T = jnp.arange(num_drafts + 1)

    cache = call(1, capacity, method="init_cache")
    hidden_1TD, cache = call(prompt.tokens, prompt.positions, prompt.segments, cache, method="decode")
    first_1V = call(hidden_1TD[:, -1:], method="logits")[:, 0]
    distribution = functools.partial(_probabilities, values=inputs.sampling, settings=settings)
    first_1 = _draw(distribution(first_1V), _key(inputs.key, jnp.int32(0), _AGAIN, 0), settings.greedy)
    empty_T = jnp.full(settings.buffer_size + num_drafts + 1, settings.pad, jnp.int32)
    drafting = drafter.begin(prompt, hidden_1TD, capacity)
    state = _State(
        jnp.int32(0), first_1, jnp.int32(0), jnp.bool(False), empty_T, jnp.int32(BEGIN), cache, drafting
    )
    state = _append(state, first_1, jnp.int32(1), inputs, settings)

    def advance(state: _State) -> _State:
        def draw(logits_1V: jax.Array, index: jax.Array | int) -> tuple[jax.Array, jax.Array]:
            q_1V = distribution(logits_1V)
            return _draw(q_1V, _key(inputs.key, state.step + 1, _DRAFT, index), settings.greedy), q_1V

        positions_T = jnp.minimum(length + state.count - 1 + steps_T, last_position)
        drafts_K, q_KV, drafting = drafter.draft(state.drafter, state.last_B, positions_T, draw)
        read_1T = jnp.concatenate([state.last_B, drafts_K])[None]
        hidden_1TD, cache = call(
            read_1T, positions_T[None], jnp.ones_like(read_1T), state.cache, method="decode"
        )
        p_TV = distribution(call(hidden_1TD, method="logits")[0])
        num_kept, next_1 = judge(
            drafts_K, q_KV, p_TV, _key(inputs.key, state.step + 1, _KEEP, 0), settings.greedy
        )
        tokens_T = jnp.where(steps_T == num_kept, next_1, jnp.append(drafts_K, 0))
        state = state._replace(
            step=state.step + 1,
            # The last token and the drafts that are kept; the next pass overwrites the others.
            cache=cache._replace(num_filled=state.cache.num_filled + num_kept + 1),
            drafter=drafter.keep(drafting, Read(hidden_1TD, num_kept)),
        )
        return _append(state, tokens_T, num_kept + 1, inputs, settings)

    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    return state.new_T, state.count, state.step


def judge(
    drafts_K: jax.Array, q_KV: jax.Array, p_TV: jax.Array, key: jax.Array, greedy: bool
) -> tuple[jax.Array, jax.Array]:
    """Return how many drafts are kept, and the token after them.

    Args:
        drafts_K: Drafted tokens, of q.
        q_KV: Distribution that each is drawn from.
        p_TV: Distributions of the model, of the token of each draft and of the one after all, T = K + 1.
        key: Random key.
        greedy: Whether the likeliest token is always taken.

    Returns:
        (number of drafts that are kept, int32 []; the token after them, int32 [1]).
    """
    num_drafts = len(drafts_K)
    best_T = p_TV.argmax(axis=-1)
    rows_K = jnp.arange(num_drafts)
    keep_key, again_key = jax.random.split(key)
    if greedy:
        keep_K = drafts_K == best_T[:-1]
    else:
        # u < p / q, without a division by what may underflow.
        uniform_K = jax.random.uniform(keep_key, (num_drafts,))
        keep_K = uniform_K * q_KV[rows_K, drafts_K] < p_TV[rows_K, drafts_K]
    num_kept = jnp.cumprod(keep_K.astype(jnp.int32)).sum()
    if greedy:
        return num_kept, best_T[num_kept][None].astype(jnp.int32)
    # After all drafts there is none to subtract.
    q_TV = jnp.concatenate([q_KV, jnp.zeros_like(q_KV[:1])])
    residual_V = jnp.maximum(p_TV[num_kept] - q_TV[num_kept], 0.0)
    # Where rounding leaves nothing, p and q are equal.
    residual_V = jnp.where(residual_V.sum() > 0, residual_V, p_TV[num_kept])
    return num_kept, _draw(residual_V[None], again_key, greedy)


def _append(
    state: _State, tokens_T: jax.Array, num_tokens: jax.Array, inputs: _Inputs, settings: DecodeSettings
) -> _State:
    """Add the first `num_tokens` tokens to the text, up to the one that ends it."""

    def add(carry: tuple[jax.Array, ...], token_and_index: tuple[jax.Array, jax.Array]) -> Any:
        count, done, stop = carry
        token, index = token_and_index
        ends = is_end(token, settings.ends)
        is_new = ~done & (index < num_tokens)
        if inputs.stops_AV is not None:
            stop = jnp.where(is_new & ~ends, jnp.asarray(inputs.stops_AV)[stop, token], stop)
        counted = is_new & ~ends
        count = count + counted
        done = done | (is_new & (ends | (stop == FOUND) | (count >= inputs.max_tokens)))
        return (count, done, stop), None

    carry = (state.count, state.done, state.stop)
    (count, done, stop), _ = jax.lax.scan(add, carry, (tokens_T, jnp.arange(len(tokens_T))))
    new_T = jax.lax.dynamic_update_slice(state.new_T, tokens_T, (state.count,))
    last_B = tokens_T[num_tokens - 1][None]
    return state._replace(last_B=last_B, count=count, done=done, new_T=new_T, stop=stop)


def _probabilities(logits_BV: jax.Array, values: SamplingArrays, settings: DecodeSettings) -> jax.Array:
    """Return the distribution that `decode.sampling.sample` draws from, float32 [B, V]."""
    logits_BV = logits_BV.astype(jnp.float32)
    if settings.greedy:
        return logits_BV
    logits_BV = logits_BV / values.temperature
    if not settings.truncated:
        return jax.nn.softmax(logits_BV, axis=-1)
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    truncated_BV = truncate(sorted_BV, values.top_k, values.top_p, values.min_p)
    rank_BV = jnp.argsort(order_BV, axis=-1)
    return jax.nn.softmax(jnp.take_along_axis(truncated_BV, rank_BV, axis=-1), axis=-1)


def _draw(weights_BV: jax.Array, key: jax.Array, greedy: bool) -> jax.Array:
    """Draw a token of each row, int32 [B]."""
    if greedy:
        return weights_BV.argmax(axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, jnp.log(weights_BV), axis=-1).astype(jnp.int32)


def _key(key: jax.Array, step: jax.Array, use: int, index: jax.Array | int) -> jax.Array:
    """Return the key of one draw."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, step), use), index)
