"""Constraints on the next token (text/generation_rules.py) as masks of the logits, with transformers' meaning.

The order is that of transformers' logits processors: repeated n-grams, banned ids, ends that come too early, then
forced ids. Rules are static, so that a model without any compiles to the program it has without this file.

Shapes: R rows (of a batch, or of its beams), S prompt and new tokens, W positions that an n-gram may begin at.
"""

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.decode.padding import Padded
from tlx.text.generation_rules import GenerationRules


class TextSoFar(NamedTuple):
    """The text of each row before its next token."""

    tokens_RS: jax.Array
    """Prompt, padded on the left, then new tokens, then an unused rest."""
    real_RS: jax.Array
    """Whether a position holds a token of the text."""
    step: jax.Array
    """Number of new tokens, int32 []."""
    width: int
    """Positions of the prompts: the next token comes to `width + step`."""
    max_tokens: jax.Array
    """Largest number of new tokens, int32 []."""
    source: Padded | None
    """What the encoder read; None for other models."""


def text_so_far(
    prompt: Padded, new_RT: jax.Array, step: jax.Array, max_tokens: jax.Array, source: Padded | None
) -> TextSoFar:
    """Join prompts and new tokens.

    Args:
        prompt: Prompts, padded on the left; each is repeated for its beams.
        new_RT: New tokens.
        step: Number of new tokens.
        max_tokens: Largest number of new tokens.
        source: Inputs of the encoder; None for other models.

    Returns:
        The text of each row.
    """
    batch, width = prompt.tokens.shape
    num_beams = new_RT.shape[0] // batch
    prompt_RW, real_RW = (jnp.repeat(jnp.asarray(array), num_beams, axis=0) for array in prompt[:2])
    if source is not None and num_beams > 1:
        source = Padded(*(jnp.repeat(jnp.asarray(array), num_beams, axis=0) for array in source))
    written_RT = jnp.broadcast_to(jnp.arange(new_RT.shape[1]) < step, new_RT.shape)
    return TextSoFar(
        jnp.concatenate([prompt_RW, new_RT], axis=1),
        jnp.concatenate([real_RW > 0, written_RT], axis=1),
        step,
        width,
        max_tokens,
        source,
    )


def is_end(tokens: jax.Array, ends: tuple[int, ...]) -> jax.Array:
    """Return whether each token is one of the ids that end a text."""
    ended = tokens == ends[0]
    for end in ends[1:]:
        ended |= tokens == end
    return ended


def apply_rules(scores_RV: jax.Array, text: TextSoFar, rules: GenerationRules) -> jax.Array:
    """Set the scores of tokens that the rules forbid to -inf; a forced token gets 0.

    Args:
        scores_RV: Logits or log-probabilities of the next token.
        text: The text of each row before it.
        rules: The rules, `ends` included; static.

    Returns:
        [R, V].
    """
    banned_RV = jnp.broadcast_to(_mask(scores_RV.shape[1], rules.banned), scores_RV.shape)
    if rules.no_repeat_ngram:
        banned_RV |= _completed_ngrams(text, text.tokens_RS, text.real_RS, rules.no_repeat_ngram, banned_RV)
    if rules.encoder_no_repeat_ngram and text.source is not None:
        source_RS = jnp.asarray(text.source.tokens)
        real_RS = jnp.asarray(text.source.segments) > 0
        banned_RV |= _completed_ngrams(text, source_RS, real_RS, rules.encoder_no_repeat_ngram, banned_RV)
    by_length = collections.defaultdict(list)
    for sequence in rules.banned_sequences:
        by_length[len(sequence)].append(sequence)
    for sequences in by_length.values():
        banned_RV |= _completed_sequences(text, np.array(sequences), banned_RV)
    if rules.min_length or rules.min_new_tokens:
        too_short_R = (text.real_RS.sum(axis=1) < rules.min_length) | (text.step < rules.min_new_tokens)
        banned_RV |= too_short_R[:, None] & _mask(scores_RV.shape[1], rules.ends)
    scores_RV = jnp.where(banned_RV, -jnp.inf, scores_RV)
    if rules.first is not None:
        is_first_R = text.real_RS.sum(axis=1) == 1
        scores_RV = _forced(scores_RV, is_first_R[:, None], (rules.first,))
    if rules.last:
        scores_RV = _forced(scores_RV, text.step == text.max_tokens - 1, rules.last)
    return scores_RV


def _mask(vocab_size: int, ids: tuple[int, ...]) -> np.ndarray:
    """Return bool [V], True for `ids`."""
    mask_V = np.zeros(vocab_size, bool)
    mask_V[[index for index in ids if index < vocab_size]] = True
    return mask_V


def _forced(scores_RV: jax.Array, where: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    """Leave only `ids` possible, with a score of 0, where a row is forced."""
    only_V = np.where(_mask(scores_RV.shape[1], ids), 0.0, -np.inf).astype(np.float32)
    return jnp.where(where, only_V, scores_RV)


def _tail(text: TextSoFar, size: int) -> tuple[jax.Array, jax.Array]:
    """Return the last `size` tokens [R, size], and whether a row has that many [R]."""
    # All rows end at the same position, since prompts are padded on the left.
    first = text.width + text.step - size
    tail_RN = jax.lax.dynamic_slice_in_dim(text.tokens_RS, first, size, axis=1)
    real_RN = jax.lax.dynamic_slice_in_dim(text.real_RS, first, size, axis=1)
    return tail_RN, real_RN.all(axis=1) & (first >= 0)


def _completed_ngrams(
    text: TextSoFar, tokens_RS: jax.Array, real_RS: jax.Array, size: int, like_RV: jax.Array
) -> jax.Array:
    """Return bool [R, V]: tokens that would make the text's last `size` tokens equal to a run of `tokens_RS`."""
    num_windows = tokens_RS.shape[1] - size + 1
    if num_windows < 1 or text.tokens_RS.shape[1] < size:
        return jnp.zeros_like(like_RV)
    tail_RN, enough_R = _tail(text, size - 1)
    match_RW = jnp.broadcast_to(enough_R[:, None], (len(tokens_RS), num_windows))
    for offset in range(size):
        match_RW &= real_RS[:, offset : offset + num_windows]
    for offset in range(size - 1):
        match_RW &= tokens_RS[:, offset : offset + num_windows] == tail_RN[:, offset : offset + 1]
    rows_R1 = jnp.arange(len(tokens_RS))[:, None]
    return jnp.zeros_like(like_RV).at[rows_R1, tokens_RS[:, size - 1 :]].max(match_RW)


def _completed_sequences(text: TextSoFar, sequences: np.ndarray, like_RV: jax.Array) -> jax.Array:
    """Return bool [R, V]: tokens that would complete one of the sequences, int [number, size]."""
    size = sequences.shape[1]
    if text.tokens_RS.shape[1] < size:
        return jnp.zeros_like(like_RV)
    tail_RN, enough_R = _tail(text, size - 1)
    match_RK = (tail_RN[:, None] == sequences[None, :, :-1]).all(axis=2) & enough_R[:, None]
    return jnp.zeros_like(like_RV).at[:, sequences[:, -1]].max(match_RK)
