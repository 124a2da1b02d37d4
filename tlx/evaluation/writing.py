"""Generation of the texts that a task's model writes for its items, by the cached decoder.

Shapes: A states of the automaton of stop strings.
"""

import dataclasses
from typing import Any

from tlx.decode.beam import beam_search
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.decode.stop import automaton
from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.tasks.shared.base import GenerationRequest, TaskSpec
from tlx.text.generation_rules import GenerationRules, rules_of

_GREEDY = Sampling(temperature=0.0)


def cached(model: ModelConfig) -> tuple[Transformer, int | None]:
    """Return the decoding module, with plain einsum attention, and its number of positions (None: no limit)."""
    execution = dataclasses.replace(model.execution, attention="xla")
    return Transformer(dataclasses.replace(model, execution=execution)), model.position.max_positions


def write(
    model: ModelConfig,
    params: Any,
    request: GenerationRequest,
    spec: TaskSpec,
    batch_size: int,
    *,
    sampling: Sampling = _GREEDY,
    seed: int = 0,
) -> list[list[int]]:
    """Generate a text for each prompt of a request.

    Args:
        model: Config of the language model.
        params: Parameters of the language model, those under "model".
        request: Prompts, sources and how they are continued.
        spec: Spec of the task, with its vocabulary and tokenizer.
        batch_size: Rows of every batch. The last batch is filled with copies of the last prompt, so that it
            divides over a mesh wherever training's batches do.
        sampling: How tokens are drawn where there are no beams.
        seed: Seed of the draws; text i draws the same whatever the others are.

    Returns:
        Token ids of each text, without the id that ended it, but with the stop string that ended it.
    """
    lm, max_length = cached(model)
    max_tokens = request.max_tokens
    if max_length is not None:
        max_tokens = min(max_tokens, max_length - max(map(len, request.prompts)))
    rules = GenerationRules() if spec.tokenizer is None else rules_of(spec.tokenizer).of_vocabulary()
    if request.end is not None:
        rules = rules.ending_with(request.end)
    num_copies = -len(request.prompts) % batch_size
    prompts = list(request.prompts)
    prompts += prompts[-1:] * num_copies
    sources = None
    if request.sources is not None:
        sources = list(request.sources)
        sources += sources[-1:] * num_copies
    stops_AV = None
    if request.stop:
        assert spec.tokenizer is not None, "a stop string needs a tokenizer"
        stops_AV = automaton((request.stop,), spec.tokenizer)
    if request.num_beams:
        hypotheses = beam_search(
            lm,
            params,
            prompts,
            spec.vocab,
            num_beams=request.num_beams,
            max_tokens=max_tokens,
            length_penalty=request.length_penalty,
            sources=sources,
            max_length=max_length,
            batch_size=batch_size,
            stops_AV=stops_AV,
            rules=rules,
        )
        texts = [beams[0].tokens if beams else [] for beams in hypotheses]
    else:
        texts = generate(
            lm,
            params,
            prompts,
            spec.vocab,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=seed,
            sources=sources,
            max_length=max_length,
            batch_size=batch_size,
            stops_AV=stops_AV,
            rules=rules,
        )
    return texts[: len(request.prompts)]
