"""Samples of a model in training: prompts from the run's own held-out text, and what the model writes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tlx import parallel
from tlx.base.errors import ConfigError
from tlx.data.prepare import open_caches
from tlx.run import RunConfig
from tlx.run.assemble import Run
from tlx.run.config import get_objective
from tlx.text import Tokenizer
from tlx.trainer.result import sharded_model
from tlx.training.state import State

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel

# Writes samples of a state; called on every process, within the mesh.
Sampler = Callable[[State], list[dict[str, str]]]

TEMPERATURE = 0.7
_PROMPT_TOKENS = 24
_SEARCHED_DOCUMENTS = 1_000_000
_FILL_TOKENS = 12
# Logical names of the dims that training shards over the rows and positions of a batch.
_ROW_DIMS = ("batch", "sequence")
# Token of a prompt, from and to, that a model fills in, where it does not continue the prompt.
_GAP = (12, 13)
_MASK = "[MASK]"
_SENTINEL = "<extra_id_0>"


class Prompt(NamedTuple):
    """A text for the model to continue, or to fill."""

    text: str
    """The text, with the name of a gap in it where the model fills gaps."""
    truth: str | None
    """The text of the gap, or the whole text where the model writes that; None where it is not known."""


def check_samples(config: RunConfig) -> None:
    """Raise ConfigError where log.samples asks for what a run of this config cannot write."""
    log = config.log
    if not log.samples_wanted:
        return
    field = f"log.samples = {log.samples}" if log.samples else f"log.sample_prompts = {log.sample_prompts}"
    if not config.eval.every:
        raise ConfigError(
            f"{field}: samples are written at evaluations, but eval.every = 0 makes none; set it to the number of "
            "steps between them"
        )
    if config.model.kind == "bilstm" and not get_objective(config).supervised:
        raise ConfigError(f"{field}: a bilstm is there to be read by tasks, not to write texts; set it to 0")
    if log.sample_prompts and get_objective(config).supervised:
        raise ConfigError(
            f"log.sample_prompts = {log.sample_prompts} is for pretraining; a task's samples are its first "
            "validation records: set log.samples to their number"
        )
    for number, text in enumerate(log.sample_prompts):
        if config.model.kind == "encoder" and _MASK not in text:
            raise ConfigError(
                f"log.sample_prompts[{number}] = {text!r} has no [MASK] that an encoder could fill"
            )


def gap_name(config: RunConfig) -> str | None:
    """Return the text that marks a gap in a prompt, as the objective has gaps; None where it has none."""
    objective = get_objective(config)
    if config.model.kind == "encoder" or objective.restores_masks:
        return _MASK
    return _SENTINEL if objective.fills_gaps else None


def held_out_prompts(run: Run, count: int) -> list[Prompt]:
    """Return the beginnings of `count` documents of the validation split, with a gap where the model fills."""
    name = gap_name(run.config)
    is_whole = get_objective(run.config).restores_masks
    prompts = []
    for tokens in document_starts(run.config, run.tokenizer, count):
        before, gap, after = (run.tokenizer.decode(part) for part in np.split(tokens, _GAP))
        if name is None:
            prompts.append(Prompt(before + gap + after, None))
        else:
            truth = before + gap + after if is_whole else gap
            prompts.append(Prompt(f"{before}{name}{after}", truth))
    return prompts


def write_answers(model: "LoadedModel", prompts: Sequence[str], max_tokens: int, seed: int) -> list[str]:
    """Return what a model writes for each prompt: a continuation, or the likeliest fillings of its gap.

    Args:
        model: the model; its parameters may be sharded, within the mesh.
        prompts: the prompts.
        max_tokens: largest number of new tokens of a continuation.
        seed: seed of the continuations, which are drawn at a temperature of .7.

    Returns:
        The texts, in the order of the prompts.
    """
    if model.kind == "encoder":
        return [
            ", ".join(f"{c.piece!r} {c.probability:.0%}" for c in model.fill(text, top=3)[0])
            for text in prompts
        ]
    if gap_name(model.config) == _SENTINEL:
        return list(model.generate(prompts, min(max_tokens, _FILL_TOKENS), temperature=0))
    if model.kind == "encoder_decoder":
        return list(model.generate(prompts, max_tokens, temperature=0))
    return list(model.generate(prompts, max_tokens, temperature=TEMPERATURE, seed=seed))


def make_sampler(run: Run) -> Sampler | None:
    """Return the sampler of a pretraining; None where the config wants no samples."""
    log = run.config.log
    if not log.samples_wanted:
        return None
    prompts = [Prompt(text, None) for text in log.sample_prompts]
    if log.samples:
        prompts += held_out_prompts(run, log.samples)
    if not prompts:
        raise ConfigError(
            f"log.samples = {log.samples}: no document of the validation split has more than {_PROMPT_TOKENS} "
            "tokens to begin a sample with; give prompts in log.sample_prompts"
        )
    texts = [prompt.text for prompt in prompts]
    max_tokens = log.sample_tokens
    if run.config.model.position.max_positions is not None:
        longest = max(len(run.tokenizer.encode(text)) for text in texts) + 1
        max_tokens = max(1, min(max_tokens, run.config.model.position.max_positions - longest))
    # A few prompts need not divide over the devices: each computes all rows, with its shards of the parameters.
    rules = tuple(rule._replace(axes=()) if rule.name in _ROW_DIMS else rule for rule in run.rules)

    def sampler(state: State) -> list[dict[str, str]]:
        model = sharded_model(run, state)
        with parallel.use(run.mesh, rules):
            answers = write_answers(model, texts, max_tokens, run.config.seed)
        samples = []
        for prompt, answer in zip(prompts, answers, strict=True):
            truth = {} if prompt.truth is None else {"truth": prompt.truth}
            samples.append({"prompt": prompt.text, "text": answer, **truth})
        return samples

    return sampler


def document_starts(config: RunConfig, tokenizer: Tokenizer, count: int) -> list[np.ndarray]:
    """Return the first tokens of `count` documents of the validation split; fewer where they are short.

    Args:
        config: the run's config.
        tokenizer: its tokenizer.
        count: the largest number of documents.

    Returns:
        Token ids, at most half a sequence of each document.
    """
    (cache, *_) = open_caches(config.data, tokenizer, "validation")
    length = min(_PROMPT_TOKENS, config.data.sequence_length // 2)
    # Of the first documents alone: a corpus may have billions.
    offsets = cache.read_offsets(0, min(cache.num_documents, _SEARCHED_DOCUMENTS) + 1)
    long = np.flatnonzero(np.diff(offsets) > length)
    chosen = []
    if len(long):
        chosen = long[np.linspace(0, len(long), count, endpoint=False).astype(int)]
    starts = [int(offsets[document]) for document in chosen]
    return [np.asarray(cache.read_tokens(start, start + length), np.int32) for start in starts]
