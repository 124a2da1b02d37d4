"""How likely each of a few given continuations of a prompt is: the prompt goes through the model once.

Shapes are rounded up to powers of two, as in generate.py; prompts are padded on the left, choices on the
right.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.cache_rows import repeat
from tlx.decode.generate import encoded
from tlx.decode.padding import Padded, bucket, pad
from tlx.nn.losses import token_losses
from tlx.text.vocabulary import Vocabulary

MAX_ROWS = 64
MAX_LOGITS = 2**25  # in one batch


class ScoredTokens(NamedTuple):
    """A choice, token by token."""

    log_probs: np.ndarray  # natural logarithms, float64 [tokens of the choice]
    likeliest: np.ndarray  # bool [tokens]: no other token was likelier there


def score_choices(
    lm: nn.Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    vocab: Vocabulary,
    *,
    sources: Sequence[Sequence[int]] | None = None,
    max_length: int | None = None,
) -> list[list[ScoredTokens]]:
    """Each choice of each prompt, scored behind it.

    choices: for each prompt, its own. Other arguments as those of `generate`. Raises ConfigError for a prompt
    without choices, or one that does not fit with its longest one.
    """
    longest = _longest(prompts, choices, sources or (), max_length)
    found: list[list[ScoredTokens]] = [[]] * len(prompts)
    most, widest = max(map(len, choices), default=1), bucket(max(longest, default=1))
    size = max(1, min(MAX_ROWS // most, MAX_LOGITS // (most * widest * lm.cfg.padded_vocab)))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        # Rows that fill the batch up to its bucket repeat the last prompt and are thrown away.
        filled = rows + [rows[-1]] * (bucket(len(rows), 1) - len(rows))
        prompt = pad([prompts[row] for row in filled], vocab.pad, left=True, limit=max_length)
        source = None
        if sources is not None:
            source = pad([sources[row] for row in filled], vocab.pad, left=False, limit=max_length)
        count = bucket(max(len(choices[row]) for row in rows), 1)
        width = bucket(max(longest[row] for row in rows), 1)
        tokens_BKN = np.full((len(filled), count, width), vocab.pad, np.int32)
        real_BKN = np.zeros_like(tokens_BKN)
        for place, row in enumerate(rows):
            for number, choice in enumerate(choices[row]):
                tokens_BKN[place, number, : len(choice)] = choice
                real_BKN[place, number, : max(0, len(choice) - 1)] = 1  # the last one is not read
        logs_BKN, hits_BKN = jax.device_get(_score(lm, params, prompt, source, tokens_BKN, real_BKN))
        logs_BKN = logs_BKN.astype(np.float64)
        for place, row in enumerate(rows):
            cuts = [(place, i, slice(len(choice))) for i, choice in enumerate(choices[row])]
            found[row] = [ScoredTokens(logs_BKN[cut], hits_BKN[cut]) for cut in cuts]
    return found


def _longest(
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    sources: Sequence[Sequence[int]],
    max_length: int | None,
) -> list[int]:
    """Tokens of each prompt's longest choice, one at least. The last token of a choice is not read."""
    if len(choices) != len(prompts) or not all(choices):
        raise ConfigError(f"{len(prompts)} prompts need as many lists of choices, none of them empty")
    longest = [max(1, *map(len, own)) for own in choices]
    for number, (prompt, length) in enumerate(zip(prompts, longest, strict=True)):
        if not len(prompt):
            raise ConfigError(f"prompt {number} has no tokens: there is nothing to continue from")
        if max_length is not None and len(prompt) + length - 1 > max_length:
            raise ConfigError(
                f"prompt {number} has {len(prompt)} tokens and its longest choice {length}, more than the "
                f"{max_length} positions of the model"
            )
    for number, source in enumerate(sources):
        if not 0 < len(source) <= (max_length or len(source)):
            raise ConfigError(
                f"source {number} has {len(source)} tokens; the model reads 1 to {max_length or 'any number'}"
            )
    return longest


@functools.partial(jax.jit, static_argnames="lm")
def _score(
    lm: nn.Module,
    params: Any,
    prompt: Padded,
    source: Padded | None,
    tokens_BKN: jax.Array,
    real_BKN: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(log-probabilities float32 [B, K, N], whether no token was likelier)."""
    call = functools.partial(lm.apply, {"params": params})
    (batch, width), (_, count, length) = prompt.tokens.shape, tokens_BKN.shape
    cache = call(batch, width + length, *encoded(call, source), method="init_cache")
    given = prompt.tokens, prompt.positions, prompt.segments
    last_BTD, cache = call(*given, cache, method="decode")
    hidden_RND = jnp.repeat(last_BTD[:, -1:], count, axis=0)
    if length > 1:
        before_RN = tokens_BKN.reshape(batch * count, length)[:, :-1]
        segments_RN = real_BKN.reshape(batch * count, length)[:, :-1]
        positions_BN = prompt.segments.sum(axis=1, keepdims=True) + jnp.arange(length - 1)
        positions_RN = jnp.repeat(positions_BN, count, axis=0) * segments_RN
        more = call(before_RN, positions_RN, segments_RN, repeat(cache, count), method="decode")[0]
        hidden_RND = jnp.concatenate([hidden_RND, more], axis=1)
    unembedding = call(method="unembedding")
    targets_RN = tokens_BKN.reshape(batch * count, length)
    losses_RN, _, likeliest_RN = token_losses(hidden_RND, unembedding, targets_RN)
    return -losses_RN.reshape(tokens_BKN.shape), likeliest_RN.reshape(tokens_BKN.shape)
