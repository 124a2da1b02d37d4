"""Log-probabilities of a few given continuations of a prompt, which goes through the model once.

Shapes are rounded up to powers of two, as in generate.py; prompts are padded on the left, choices on the
right.
Shapes: W rows of the repeated cache (B times K).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.cache_rows import repeat
from tlx.decode.cached import encoded
from tlx.decode.padding import Padded, bucket, pad
from tlx.nn.losses import token_losses
from tlx.text.vocabulary import Vocabulary

MAX_ROWS = 64
# Largest number of logits of one batch, which bounds its memory.
MAX_LOGITS = 2**25


class ScoredTokens(NamedTuple):
    """Scores of a choice, token by token."""

    log_probs: np.ndarray
    """Natural log-probability of each token, float64 [number of tokens]."""
    likeliest: np.ndarray
    """Whether greedy decoding would take the token, bool [number of tokens]."""


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
    """Score each choice as a continuation of its prompt.

    Args:
        lm: A Transformer of kind decoder or encoder_decoder.
        params: Its parameters.
        prompts: Token ids to continue; of an encoder-decoder the beginnings of the decoder's input.
        choices: Token ids of each prompt's continuations, one or more.
        vocab: The vocabulary, for its pad.
        sources: Token ids that the encoder reads, one sequence per prompt; None for a decoder.
        max_length: Number of positions of the model; None: no limit.

    Returns:
        Scores of each prompt's choices.

    Raises:
        ConfigError: a prompt has no choices, or does not fit with its longest one.
    """
    longest = _longest(prompts, choices, sources or (), max_length)
    results: list[list[ScoredTokens]] = [[]] * len(prompts)
    max_choices = max(map(len, choices), default=1)
    # By the longest choice of all prompts, so that every batch stays within MAX_LOGITS.
    max_width = bucket(max(longest, default=1))
    size = max(1, min(MAX_ROWS // max_choices, MAX_LOGITS // (max_choices * max_width * lm.cfg.padded_vocab)))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    # Prompts of similar length share a batch, so that little of it is padding.
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        # Rows that fill the batch up to its bucket repeat the last prompt and are dropped.
        filled = rows + [rows[-1]] * (bucket(len(rows), 1) - len(rows))
        prompt = pad([prompts[row] for row in filled], vocab.pad, left=True, limit=max_length)
        source = None
        if sources is not None:
            source = pad([sources[row] for row in filled], vocab.pad, left=False, limit=max_length)
        count = bucket(max(len(choices[row]) for row in rows), 1)
        width = bucket(max(longest[row] for row in rows), 1)
        tokens_BKT = np.full((len(filled), count, width), vocab.pad, np.int32)
        real_BKT = np.zeros_like(tokens_BKT)
        for index, row in enumerate(rows):
            for number, choice in enumerate(choices[row]):
                tokens_BKT[index, number, : len(choice)] = choice
                # The model does not read a choice's last token, which is only a target.
                real_BKT[index, number, : max(0, len(choice) - 1)] = 1
        log_probs_BKT, likeliest_BKT = jax.device_get(
            _score(lm, params, prompt, source, tokens_BKT, real_BKT)
        )
        log_probs_BKT = log_probs_BKT.astype(np.float64)
        for index, row in enumerate(rows):
            cuts = [(index, number, slice(len(choice))) for number, choice in enumerate(choices[row])]
            results[row] = [ScoredTokens(log_probs_BKT[cut], likeliest_BKT[cut]) for cut in cuts]
    return results


def _longest(
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    sources: Sequence[Sequence[int]],
    max_length: int | None,
) -> list[int]:
    """Return the tokens of each prompt's longest choice, at least 1; raise ConfigError where it does not fit."""
    if len(choices) != len(prompts) or not all(choices):
        raise ConfigError(f"{len(prompts)} prompts need as many lists of choices, none of them empty")
    longest = [max(1, *map(len, options)) for options in choices]
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
    tokens_BKT: jax.Array,
    real_BKT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return (log-probabilities float32 [B, K, N], whether no token was likelier)."""
    # `apply` is typed as a union over `mutable`, which is not used here.
    call = cast(Any, functools.partial(lm.apply, {"params": params}))
    batch, width = prompt.tokens.shape
    _, count, length = tokens_BKT.shape
    cache = call(batch, width + length, *encoded(call, source), method="init_cache")
    prompt_BTD, cache = call(prompt.tokens, prompt.positions, prompt.segments, cache, method="decode")
    # The prompt's last position predicts the first token of every choice.
    hidden_WTD = jnp.repeat(prompt_BTD[:, -1:], count, axis=0)
    if length > 1:
        inputs_WT = tokens_BKT.reshape(batch * count, length)[:, :-1]
        segments_WT = real_BKT.reshape(batch * count, length)[:, :-1]
        positions_BT = prompt.segments.sum(axis=1, keepdims=True) + jnp.arange(length - 1)
        # Padding stands at position 0, a legal one; its segment hides it from attention.
        positions_WT = jnp.repeat(positions_BT, count, axis=0) * segments_WT
        choice_WTD = call(inputs_WT, positions_WT, segments_WT, repeat(cache, count), method="decode")[0]
        hidden_WTD = jnp.concatenate([hidden_WTD, choice_WTD], axis=1)
    unembedding = call(method="unembedding")
    targets_WT = tokens_BKT.reshape(batch * count, length)
    losses_WT, _, likeliest_WT = token_losses(hidden_WTD, unembedding, targets_WT)
    return -losses_WT.reshape(tokens_BKT.shape), likeliest_WT.reshape(tokens_BKT.shape)
