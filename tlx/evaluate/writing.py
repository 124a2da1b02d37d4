"""Texts that a task's model writes for its items, by the cached decoder."""

import dataclasses
from typing import Any

from tlx.decode.beam import beam_search
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.tasks.protocol import Asked
from tlx.text.vocabulary import Vocabulary

_GREEDY = Sampling(temperature=0.0)


def write(
    model: ModelConfig, params: Any, asked: Asked, vocab: Vocabulary, batch_size: int
) -> list[list[int]]:
    """The ids of a text for each prompt, without its eos. params: those of the model itself.

    Every batch has `batch_size` rows, the last one some of them twice, so that it divides over a mesh where
    training's batches do.
    """
    execution = dataclasses.replace(model.execution, attention="xla")
    lm = Transformer(dataclasses.replace(model, execution=execution))
    longest = model.position.max_length if model.position.kind == "learned" else None
    room = asked.max_tokens if longest is None else longest - max(map(len, asked.prompts))
    prompts, sources = list(asked.prompts), asked.sources and list(asked.sources)
    more = -len(prompts) % batch_size
    prompts += prompts[-1:] * more
    sources = sources and sources + sources[-1:] * more
    given: dict[str, Any] = {"sources": sources, "max_tokens": min(asked.max_tokens, room)}
    given |= {"max_length": longest, "batch_size": batch_size}
    if asked.num_beams:
        given |= {"num_beams": asked.num_beams, "length_penalty": asked.length_penalty}
        found = beam_search(lm, params, prompts, vocab, **given)
        texts = [rows[0].tokens if rows else [] for rows in found]
    else:
        texts = generate(lm, params, prompts, vocab, sampling=_GREEDY, **given)
    return texts[: len(asked.prompts)]
