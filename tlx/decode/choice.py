"""How likely each of a few given continuations of a prompt is: the prompt goes through the model once.

Shapes are rounded up to powers of two, as in generate.py; prompts are padded on the left, choices on the
right.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.cache_rows import repeat
from tlx.decode.generate import check, encoded
from tlx.decode.padding import Padded, bucket, pad
from tlx.nn.losses import token_losses
from tlx.text.vocabulary import Vocabulary

MAX_ROWS = 64
MAX_LOGITS = 2**25  # in one batch


def choice_log_probs(
    lm: nn.Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    vocab: Vocabulary,
    *,
    sources: Sequence[Sequence[int]] | None = None,
    max_length: int | None = None,
) -> list[list[np.ndarray]]:
    """Natural log-probability of each token of each choice behind its prompt, float64 [tokens of the choice].

    choices: for each prompt, its own. Other arguments as those of `generate`. Raises ConfigError for a prompt
    without choices, or one that does not fit with its longest one.
    """
    if len(choices) != len(prompts) or not all(choices):
        raise ConfigError(f"{len(prompts)} prompts need as many lists of choices, none of them empty")
    longest = [max(1, *map(len, own)) for own in choices]
    for prompt, length in zip(prompts, longest, strict=True):
        check([prompt], None, length, max_length)
    if sources is not None:
        check([], sources, 1, max_length)
    found: list[list[np.ndarray]] = [[]] * len(prompts)
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
                real_BKN[place, number, : len(choice)] = 1
        scored = np.asarray(_score(lm, params, prompt, source, tokens_BKN, real_BKN), np.float64)
        for place, row in enumerate(rows):
            found[row] = [scored[place, i, : len(choice)] for i, choice in enumerate(choices[row])]
    return found


@functools.partial(jax.jit, static_argnames="lm")
def _score(
    lm: nn.Module,
    params: Any,
    prompt: Padded,
    source: Padded | None,
    tokens_BKN: jax.Array,
    real_BKN: jax.Array,
) -> jax.Array:
    """float32 [B, K, N]."""
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
    losses_RN = token_losses(hidden_RND, unembedding, tokens_BKN.reshape(batch * count, length))[0]
    return -losses_RN.reshape(batch, count, length)
