"""Texts that a task's model writes for its items, by the cached decoder."""

import dataclasses
from typing import Any

from tlx.decode.beam import beam_search
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.decode.stop import automaton
from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.tasks.shared.base import GenerationRequest, TaskSpec

_GREEDY = Sampling(temperature=0.0)


def cached(model: ModelConfig) -> tuple[Transformer, int | None]:
    """(the module that decodes, by plain einsums whatever trained it; its places, None for any number)."""
    execution = dataclasses.replace(model.execution, attention="xla")
    return Transformer(dataclasses.replace(model, execution=execution)), model.position.max_positions


def write(
    model: ModelConfig, params: Any, asked: GenerationRequest, spec: TaskSpec, batch_size: int
) -> list[list[int]]:
    """The ids of a text for each prompt, without what ends it (but a stop string, if any). params: those of
    the model itself.

    Every batch has `batch_size` rows, the last one some of them twice, so that it divides over a mesh where
    training's batches do.
    """
    lm, longest = cached(model)
    room = asked.max_tokens if longest is None else longest - max(map(len, asked.prompts))
    prompts, sources = list(asked.prompts), asked.sources and list(asked.sources)
    vocab = spec.vocab if asked.end is None else dataclasses.replace(spec.vocab, eos=asked.end)
    more = -len(prompts) % batch_size
    prompts += prompts[-1:] * more
    sources = sources and sources + sources[-1:] * more
    given: dict[str, Any] = {"sources": sources, "max_tokens": min(asked.max_tokens, room)}
    given |= {"max_length": longest, "batch_size": batch_size}
    given["stops_SV"] = automaton((asked.stop,), spec.tokenizer) if asked.stop else None
    if asked.num_beams:
        given |= {"num_beams": asked.num_beams, "length_penalty": asked.length_penalty}
        found = beam_search(lm, params, prompts, vocab, **given)
        texts = [rows[0].tokens if rows else [] for rows in found]
    else:
        texts = generate(lm, params, prompts, vocab, sampling=_GREEDY, **given)
    return texts[: len(asked.prompts)]
