"""Batched continuation of prompts: one prefill through the cached model, then one token at a time.

Prompts of different lengths are padded on the left (segment 0), so that all rows write the same cache position
at each step. Shapes are rounded up to powers of two: a program is compiled once per bucket.

Shapes: A states of the automaton of stop strings.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.cached import ChunkedDecoding
from tlx.decode.loop import DecodeInputs, DecodeSettings
from tlx.decode.padding import bucket, pad
from tlx.decode.sampling import Sampling, sampling_arrays
from tlx.decode.two_stream import continue_two_stream
from tlx.text.generation_rules import GenerationRules
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
    stops_AV: np.ndarray | None = None,
    rules: GenerationRules | None = None,
) -> list[list[int]]:
    """Continue each prompt.

    Args:
        lm: A Transformer or TwoStream.
        params: Its parameters.
        prompts: Token ids to continue; of an encoder-decoder the beginnings of the decoder's input.
        vocab: The vocabulary, for its pad and eos.
        max_tokens: Largest number of new tokens, eos included.
        sampling: How tokens are drawn.
        seed: Seed. Prompt i inputs from fold_in(key(seed), i), whatever else is in its batch.
        sources: Token ids that the encoder reads, one sequence per prompt; None for other models.
        max_length: Number of positions of the model; None: no limit.
        batch_size: Prompts per batch.
        stops_AV: `decode.stop.automaton` of strings that end a row; the token that completes one is its last.
        rules: Ids that end a row, and constraints on the others; None: eos ends it, and any id may come.

    Returns:
        New token ids of each prompt, without the id that ended it.

    Raises:
        ConfigError: sampling is not legal, or a prompt or source does not fit.
    """
    sampling.validate()
    check(prompts, sources, max_tokens, max_length)
    settings = settings_of(sampling, max_tokens, vocab, rules)
    outputs: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        rows = np.arange(start, min(start + batch_size, len(prompts)))
        num_real = len(rows)
        # Rows that fill the batch up to its bucket repeat the last prompt and are dropped.
        rows = np.pad(rows, (0, bucket(num_real, 1) - num_real), mode="edge")
        prompt = pad([prompts[row] for row in rows], vocab.pad, left=True, limit=max_length)
        inputs = DecodeInputs(
            row_keys(seed, rows), jnp.int32(max_tokens), sampling_arrays(sampling), stops_AV
        )
        if lm.cfg.kind == "two_stream":
            new_BT, counts_B = continue_two_stream(lm, params, prompt, inputs, settings)
        else:
            source = None
            if sources is not None:
                source = pad([sources[row] for row in rows], vocab.pad, left=False, limit=max_length)
            decoding = ChunkedDecoding(lm, params, prompt, source, inputs, settings)
            new_BT, counts_B, _ = decoding.advance(max_tokens)
        tokens = np.asarray(new_BT)
        counts = np.asarray(counts_B)
        outputs += [tokens[row, : counts[row]].tolist() for row in range(num_real)]
    return outputs


def row_keys(seed: int, rows: np.ndarray) -> jax.Array:
    """Return a key for each prompt, by its number: neither batch_size nor other prompts change what is drawn."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), rows)


def settings_of(
    sampling: Sampling, max_tokens: int, vocab: Vocabulary, rules: GenerationRules | None
) -> DecodeSettings:
    """Return the static values of a call.

    Args:
        sampling: How tokens are drawn.
        max_tokens: Largest number of new tokens.
        vocab: The vocabulary, for its pad and eos.
        rules: Ids that end a row, and constraints on the others; None: eos ends it, and any id may come.

    Returns:
        The values, of which a program is compiled for each.
    """
    ends, rules = resolved_rules(rules, vocab)
    return DecodeSettings(
        greedy=sampling.greedy,
        truncated=sampling.truncated,
        penalised=sampling.penalised,
        buffer_size=bucket(max_tokens),
        ends=ends,
        pad=vocab.pad,
        rules=rules,
    )


def resolved_rules(
    rules: GenerationRules | None, vocab: Vocabulary
) -> tuple[tuple[int, ...], GenerationRules | None]:
    """Return the ids that end a text, and the rules with them; None where they constrain nothing else."""
    rules = rules or GenerationRules()
    ends = rules.ends or (vocab.eos,)
    is_free = rules == GenerationRules(ends=rules.ends)
    return ends, None if is_free else dataclasses.replace(rules, ends=ends)


def check(prompts: Sequence, sources: Sequence | None, max_tokens: int, max_length: int | None) -> None:
    """Check that prompts and sources fit the positions of the model.

    Args:
        prompts: Token ids of each prompt.
        sources: Token ids that the encoder reads; None for other models.
        max_tokens: Largest number of new tokens.
        max_length: Number of positions of the model; None: no limit.

    Raises:
        ConfigError: max_tokens is not positive, or a prompt or source is empty or too long.
    """
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
