"""Constraints on the next token (text/generation_rules.py) as masks of the logits, with transformers' meaning.

The order is that of transformers' logits processors: repeated n-grams, banned ids, ends that come too early, then
forced ids. Rules are static, so that a model without any compiles to the program it has without this file.

Shapes: W rows (of a batch, or of its beams), J prompt and new tokens, I positions that an n-gram may begin at, Q last
tokens.
"""

import collections
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.decode.padding import Padded
from tlx.text.generation_rules import GenerationRules


class TextSoFar(NamedTuple):
    """The text of each row before its next token."""

    tokens_WJ: jax.Array
    """Prompt, padded on the left, then new tokens, then an unused rest."""
    real_WJ: jax.Array
    """Whether a position holds a token of the text."""
    step: jax.Array
    """Number of new tokens, int32 []."""
    width: int
    """Positions of the prompts: the next token comes to `width + step`."""
    max_tokens: jax.Array
    """Largest number of new tokens, int32 []."""
    source: Padded | None
    """Inputs of the encoder; None for other models."""


def text_so_far(
    prompt: Padded, new_WT: jax.Array, step: jax.Array, max_tokens: jax.Array, source: Padded | None
) -> TextSoFar:
    """Join prompts and new tokens.

    Args:
        prompt: Prompts, padded on the left; each is repeated for its beams.
        new_WT: New tokens.
        step: Number of new tokens.
        max_tokens: Largest number of new tokens.
        source: Inputs of the encoder; None for other models.

    Returns:
        The text of each row.
    """
    batch, width = prompt.tokens.shape
    num_beams = new_WT.shape[0] // batch
    prompt_tokens, prompt_real = (jnp.repeat(jnp.asarray(array), num_beams, axis=0) for array in prompt[:2])
    if source is not None and num_beams > 1:
        repeated: Any = [jnp.repeat(jnp.asarray(array), num_beams, axis=0) for array in source]
        source = Padded(*repeated)
    written_WT = jnp.broadcast_to(jnp.arange(new_WT.shape[1]) < step, new_WT.shape)
    return TextSoFar(
        jnp.concatenate([prompt_tokens, new_WT], axis=1),
        jnp.concatenate([prompt_real > 0, written_WT], axis=1),
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


def apply_rules(scores_WV: jax.Array, text: TextSoFar, rules: GenerationRules) -> jax.Array:
    """Set the scores of tokens that the rules forbid to -inf; a forced token gets 0.

    Args:
        scores_WV: Logits or log-probabilities of the next token.
        text: The text of each row before it.
        rules: The rules, `ends` included; static.

    Returns:
        [W, V].
    """
    banned_WV = jnp.broadcast_to(_mask(scores_WV.shape[1], rules.banned), scores_WV.shape)
    if rules.no_repeat_ngram:
        banned_WV |= _completed_ngrams(text, text.tokens_WJ, text.real_WJ, rules.no_repeat_ngram, banned_WV)
    if rules.encoder_no_repeat_ngram and text.source is not None:
        source_WJ = jnp.asarray(text.source.tokens)
        real_WJ = jnp.asarray(text.source.segments) > 0
        banned_WV |= _completed_ngrams(text, source_WJ, real_WJ, rules.encoder_no_repeat_ngram, banned_WV)
    by_length = collections.defaultdict(list)
    for sequence in rules.banned_sequences:
        by_length[len(sequence)].append(sequence)
    for sequences in by_length.values():
        banned_WV |= _completed_sequences(text, np.array(sequences), banned_WV)
    if rules.min_length or rules.min_new_tokens:
        too_short_W = (text.real_WJ.sum(axis=1) < rules.min_length) | (text.step < rules.min_new_tokens)
        banned_WV |= too_short_W[:, None] & _mask(scores_WV.shape[1], rules.ends)
    scores_WV = jnp.where(banned_WV, -jnp.inf, scores_WV)
    if rules.first is not None:
        is_first_W = text.real_WJ.sum(axis=1) == 1
        scores_WV = _forced(scores_WV, is_first_W[:, None], (rules.first,))
    if rules.last:
        scores_WV = _forced(scores_WV, text.step == text.max_tokens - 1, rules.last)
    return scores_WV


def _mask(vocab_size: int, ids: tuple[int, ...]) -> np.ndarray:
    """Return bool [V], True for `ids`."""
    mask_V = np.zeros(vocab_size, bool)
    mask_V[[index for index in ids if index < vocab_size]] = True
    return mask_V


def _forced(scores_WV: jax.Array, where: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    """Leave only `ids` possible, with a score of 0, where a row is forced."""
    only_V = np.where(_mask(scores_WV.shape[1], ids), 0.0, -np.inf).astype(np.float32)
    return jnp.where(where, only_V, scores_WV)


def _tail(text: TextSoFar, size: int) -> tuple[jax.Array, jax.Array]:
    """Return the last `size` tokens [W, size], and whether a row has that many [W]."""
    # All rows end at the same position, since prompts are padded on the left.
    first = text.width + text.step - size
    tail_WQ = jax.lax.dynamic_slice_in_dim(text.tokens_WJ, first, size, axis=1)
    real_WQ = jax.lax.dynamic_slice_in_dim(text.real_WJ, first, size, axis=1)
    return tail_WQ, real_WQ.all(axis=1) & (first >= 0)


def _completed_ngrams(
    text: TextSoFar, tokens_WJ: jax.Array, real_WJ: jax.Array, size: int, like_WV: jax.Array
) -> jax.Array:
    """Return bool [W, V]: tokens that would make the text's last `size` tokens equal to a run of `tokens_WJ`."""
    num_windows = tokens_WJ.shape[1] - size + 1
    if num_windows < 1 or text.tokens_WJ.shape[1] < size:
        return jnp.zeros_like(like_WV)
    tail_WQ, enough_W = _tail(text, size - 1)
    match_WI = jnp.broadcast_to(enough_W[:, None], (len(tokens_WJ), num_windows))
    for offset in range(size):
        match_WI &= real_WJ[:, offset : offset + num_windows]
    for offset in range(size - 1):
        match_WI &= tokens_WJ[:, offset : offset + num_windows] == tail_WQ[:, offset : offset + 1]
    rows_W1 = jnp.arange(len(tokens_WJ))[:, None]
    return jnp.zeros_like(like_WV).at[rows_W1, tokens_WJ[:, size - 1 :]].max(match_WI)


def _completed_sequences(text: TextSoFar, sequences: np.ndarray, like_WV: jax.Array) -> jax.Array:
    """Return bool [W, V]: tokens that would complete one of the sequences, int [number, size]."""
    size = sequences.shape[1]
    if text.tokens_WJ.shape[1] < size:
        return jnp.zeros_like(like_WV)
    tail_WQ, enough_W = _tail(text, size - 1)
    match_WK = (tail_WQ[:, None] == sequences[None, :, :-1]).all(axis=2) & enough_W[:, None]
    return jnp.zeros_like(like_WV).at[:, sequences[:, -1]].max(match_WK)
