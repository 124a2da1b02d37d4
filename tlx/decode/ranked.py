"""Sample and rank: the likeliest of several samples of a prompt (Meena's decoding; Adiwardana et al. 2020, 2.5).

Shapes: A states of the automaton of stop strings.
"""

from collections.abc import Sequence

import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.choice import score_choices
from tlx.decode.generate import generate, resolved_rules
from tlx.decode.rows import RowDecoder, RowRequest
from tlx.decode.stop import BEGIN, FOUND


def sample_and_rank(
    decoder: RowDecoder, rows: Sequence[RowRequest], count: int, stops_AV: np.ndarray | None = None
) -> list[list[int]]:
    """Draw samples of each row, and take the one with the highest log-likelihood.

    The likelihood is that of the model itself, temperature 1 and no token ruled out, of the whole sample: with the id
    that ended it (the first one, where several would), which a sample of max_tokens and one that a stop string ended
    do not have. The number of tokens does not divide it.

    Args:
        decoder: The model.
        rows: One or more, of the same max_tokens, sampling, seed and rules. Sample j of row i draws as text i * count
            + j of the seed does.
        count: Number of samples of each, at least 1.
        stops_AV: `decode.stop.automaton` of strings that end a sample.

    Returns:
        New token ids of each row's best sample, without the id that ended it.

    Raises:
        ConfigError: count is not positive, or a row does not fit.
    """
    if count < 1:
        raise ConfigError(f"best_of = {count} must be at least 1")
    first = rows[0]
    sources = None if first.source is None else [row.source or () for row in rows]
    prompts = [row.prompt for row in rows]
    texts = generate(
        decoder.lm,
        decoder.params,
        _repeated(prompts, count),
        decoder.vocab,
        max_tokens=first.max_tokens,
        sampling=first.sampling,
        seed=first.seed,
        sources=None if sources is None else _repeated(sources, count),
        max_length=decoder.max_length,
        stops_AV=stops_AV,
        rules=first.rules,
    )
    end = resolved_rules(first.rules, decoder.vocab)[0][0]
    whole = [
        text if len(text) == first.max_tokens or _is_stopped(text, stops_AV) else [*text, end]
        for text in texts
    ]
    groups = range(0, len(texts), count)
    scored = score_choices(
        decoder.lm,
        decoder.params,
        prompts,
        [whole[start : start + count] for start in groups],
        decoder.vocab,
        sources=sources,
        max_length=decoder.max_length,
    )
    best = [int(np.argmax([choice.log_probs.sum() for choice in choices])) for choices in scored]
    return [texts[start + index] for start, index in zip(groups, best, strict=True)]


def _repeated(rows: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    return [row for row in rows for _ in range(count)]


def _is_stopped(tokens: Sequence[int], stops_AV: np.ndarray | None) -> bool:
    """Tell whether the last token completes a stop string."""
    if stops_AV is None:
        return False
    state = BEGIN
    for token in tokens:
        state = stops_AV[state, token]
    return state == FOUND
