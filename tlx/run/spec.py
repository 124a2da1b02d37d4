"""What a config says before anything is compiled: the module, the spec of examples, the shapes of a batch."""

import dataclasses
from typing import Any

import jax
import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.window import dummy_window
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.run.config import RunConfig, get_objective
from tlx.tasks.shared.base import Task, TaskSpec
from tlx.text import Tokenizer, make_tokenizer
from tlx.text.vocabulary import Vocabulary


def make_module(config: RunConfig, vocab: Vocabulary) -> Any:
    """The objective's module, its model as large as the vocabulary."""
    size = config.model.vocab_size or vocab.size
    if size < vocab.size - vocab.added:
        raise ConfigError(
            f"model.vocab_size = {size} is smaller than the tokenizer's {vocab.size}; 0 takes the tokenizer's"
        )
    model = dataclasses.replace(config.model, vocab_size=size)
    if model.padded_vocab < vocab.size:
        raise ConfigError(
            f"model.vocab_multiple = {model.vocab_multiple} gives {model.padded_vocab} rows, too few for the "
            f"{vocab.added} ids that were added to the tokenizer's {vocab.size - vocab.added}"
        )
    model.validate()
    return get_objective(config).module(config.objective, model, config.loss)


def spec_of(config: RunConfig, tokenizer: Tokenizer) -> ObjectiveSpec | TaskSpec:
    """What the run's examples depend on, with this tokenizer."""
    length = config.data.sequence_length
    if isinstance(get_objective(config), Task):
        return _task_spec(config, tokenizer.vocab, tokenizer)
    return ObjectiveSpec.of(config.objective, length, tokenizer, config.data.languages)


def _task_spec(config: RunConfig, vocab: Vocabulary, tokenizer: Tokenizer | None = None) -> TaskSpec:
    first = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or vocab.size).padded_vocab
    prompt = tuple(range(first, first + config.model.adapters.prompt_length))
    length, kind = config.data.sequence_length, config.model.kind
    return TaskSpec(config.objective, length, vocab, kind, prompt, tokenizer)


def abstract_batch(config: RunConfig, spec: ObjectiveSpec | TaskSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes of a global batch, from one example of made-up text, or of none."""
    parts = get_objective(config)
    task = isinstance(parts, Task)
    source = parts.blank(spec) if task else dummy_window(parts.reads(spec), spec.vocab)
    example = parts.example(np.random.default_rng(0), source, spec)
    rows = config.train.batch_size
    return {name: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype) for name, leaf in example.items()}


def spec_before_tokenizer(config: RunConfig) -> ObjectiveSpec | TaskSpec:
    """The spec as far as it is known before a vocabulary is trained: all that shapes depend on."""
    if config.tokenizer.path is None and config.tokenizer.kind == "sentencepiece":
        vocab = Vocabulary(config.tokenizer.vocab_size)
    else:
        vocab = make_tokenizer(config.tokenizer, ()).vocab
    if isinstance(get_objective(config), Task):
        return _task_spec(config, vocab)
    tables = np.ones(vocab.size, bool), np.ones(vocab.size, bool)
    return ObjectiveSpec(config.objective, config.data.sequence_length, vocab, *tables, config.data.languages)
