"""Batched continuation of prompts: one prefill through the cached model, then one token at a time.

Prompts of different lengths are padded on the left (segment 0), so that all rows write the same slot of
the cache at each step. Shapes are rounded up to powers of two: a program is compiled once per bucket.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.loop import DecodeInputs, DecodeSettings, DecodeState, run
from tlx.decode.padding import Padded, bucket, pad
from tlx.decode.sampling import Sampling, sampling_arrays
from tlx.decode.two_stream import continue_two_stream
from tlx.parallel import constrain
from tlx.text.vocabulary import Vocabulary


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
    stops_SV: np.ndarray | None = None,
) -> list[list[int]]:
    """Continuations of `prompts` (token ids), each without its prompt and without the eos that ended it.

    stops_SV: `decode.stop.automaton` of strings that end a row; the token that completes one is its last.

    `lm` is a tlx.models Transformer or TwoStream and `params` its own parameters. With `sources` it is an
    encoder-decoder: source i is encoded, and prompt i begins the decoder's side. `max_length` is the
    longest sequence the model has positions for (None: no limit). Prompt i draws from
    fold_in(key(seed), i), whatever else is in its batch.
    """
    sampling.validate()
    check(prompts, sources, max_tokens, max_length)
    how = sampling.greedy, sampling.truncated, sampling.penalised
    rules = DecodeSettings(*how, bucket(max_tokens), vocab.eos, vocab.pad)
    outputs: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        rows = np.arange(start, min(start + batch_size, len(prompts)))
        num_real = len(rows)
        # Rows that fill the batch up to its bucket repeat the last prompt and are thrown away.
        rows = np.pad(rows, (0, bucket(num_real, 1) - num_real), mode="edge")
        prompt = pad([prompts[row] for row in rows], vocab.pad, left=True, limit=max_length)
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), rows)
        draws = DecodeInputs(keys_B, jnp.int32(max_tokens), sampling_arrays(sampling), stops_SV)
        if lm.cfg.kind == "two_stream":
            new_BN, counts_B = continue_two_stream(lm, params, prompt, draws, rules)
        else:
            source = None
            if sources is not None:
                source = pad([sources[row] for row in rows], vocab.pad, left=False, limit=max_length)
            new_BN, counts_B = continue_cached(lm, params, prompt, source, draws, rules)
        new_BN, counts_B = np.asarray(new_BN), np.asarray(counts_B)
        outputs += [new_BN[row, : counts_B[row]].tolist() for row in range(num_real)]
    return outputs


@functools.partial(jax.jit, static_argnames=("lm", "rules"))
def continue_cached(
    lm: nn.Module,
    params: Any,
    prompt: Padded,
    source: Padded | None,
    draws: DecodeInputs,
    rules: DecodeSettings,
) -> tuple[jax.Array, jax.Array]:
    """New tokens [B, room] of prompts padded on the left, and how many of each row count."""
    call = functools.partial(lm.apply, {"params": params})
    batch, width = prompt.tokens.shape
    cache = call(batch, width + rules.buffer_size, *encoded(call, source), method="init_cache")
    lengths_B = prompt.segments.sum(axis=1)

    def step(tokens: jax.Array, positions: jax.Array, segments: jax.Array, cache: Any) -> Any:
        hidden_BTD, cache = call(tokens, positions, segments, cache, method="decode")
        return call(hidden_BTD[:, -1:], method="logits")[:, 0], cache

    def advance(state: DecodeState) -> tuple[jax.Array, Any]:
        positions_B1 = (lengths_B + state.step - 1)[:, None]
        return step(state.last_B[:, None], positions_B1, jnp.ones_like(positions_B1), state.memory)

    logits_BV, cache = step(prompt.tokens, prompt.positions, prompt.segments, cache)
    new_BN, counts_B = run(logits_BV, cache, advance, draws, rules, prompt)
    return constrain(new_BN, (None, None)), constrain(counts_B, (None,))  # whole, on every process


def encoded(call: Any, source: Padded | None) -> tuple[Any, ...]:
    """Arguments of `init_cache` that come from the encoder."""
    if source is None:
        return ()
    batch = {"encoder_" + name: value for name, value in source._asdict().items()}
    return call(batch, method="encode"), source.segments


def check(prompts: Sequence, sources: Sequence | None, max_tokens: int, max_length: int | None) -> None:
    """Raises ConfigError for a prompt or source that the model has no room for."""
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
