"""What a config says before anything is compiled: the module, the spec of examples, the shapes of a batch."""

import dataclasses
from typing import Any

import jax

from tlx.base.errors import ConfigError
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.run.config import RunConfig, get_objective
from tlx.tasks.shared.base import TaskSpec
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


def spec_of(config: RunConfig, tokenizer: Tokenizer) -> Any:
    """What the run's examples depend on, with this tokenizer: an ObjectiveSpec; a TaskSpec for tasks."""
    data = config.data
    return get_objective(config).make_spec(
        config.objective, config.model, data.sequence_length, data.languages, tokenizer
    )


def abstract_batch(config: RunConfig, spec: ObjectiveSpec | TaskSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes of a global batch, from one example of made-up text, or of none."""
    example = get_objective(config).abstract_example(spec)
    rows = config.train.batch_size
    return {name: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype) for name, leaf in example.items()}


def spec_before_tokenizer(config: RunConfig) -> Any:
    """The spec as far as it is known before a vocabulary is trained: all that shapes depend on."""
    if config.tokenizer.path is None and config.tokenizer.kind == "sentencepiece":
        vocab = Vocabulary(config.tokenizer.vocab_size)
    else:
        vocab = make_tokenizer(config.tokenizer, ()).vocab
    data = config.data
    return get_objective(config).abstract_spec(
        config.objective, config.model, data.sequence_length, data.languages, vocab
    )
