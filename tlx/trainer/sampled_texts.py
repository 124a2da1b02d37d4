"""Texts that a loaded run of a task samples for its items."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tlx.api.loaded_model import LoadedModel
from tlx.decode.sampling import Sampling
from tlx.evaluation.writing import write
from tlx.tasks.shared.base import GenerationRequest, TaskSpec
from tlx.trainer.task_config import get_task


class SampledTexts(NamedTuple):
    """Sampled texts, and the request that they answer."""

    request: GenerationRequest
    """The prompts and how they are continued."""
    tokens: list[list[int]]
    """Ids of each text, as `evaluation.writing.write` returns them."""


def sample_texts(
    model: LoadedModel,
    items: Sequence[Any],
    spec: TaskSpec,
    *,
    sampling: Sampling,
    batch_size: int,
    seed: int,
) -> SampledTexts:
    """Sample a text for each item, whatever number of beams the config asks for.

    Args:
        model: A run of a task that generates.
        items: Items of the task, each of which asks for a text.
        spec: Spec of the task.
        sampling: How tokens are drawn.
        batch_size: Rows of every batch.
        seed: Seed of the draws.

    Returns:
        The texts.
    """
    request = get_task(model.config).generation_requests(items, spec)
    assert request is not None, "these items ask for no text"
    request = request._replace(num_beams=0)
    network: Any = model.module
    tokens = write(
        network.model, model.params["model"], request, spec, batch_size, sampling=sampling, seed=seed
    )
    return SampledTexts(request, tokens)
