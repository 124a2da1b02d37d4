"""Values that follow from a config before compilation: module, example spec, shapes of a batch."""

import dataclasses
from typing import Any

import jax

from tlx.base.errors import ConfigError
from tlx.run.config import RunConfig, get_objective
from tlx.tasks.shared.base import is_supervised
from tlx.tasks.shared.student import check_rows, make_student, no_log_probs
from tlx.text import Tokenizer, make_tokenizer
from tlx.text.frames import Frame
from tlx.text.vocabulary import Vocabulary


def make_module(config: RunConfig, vocab: Vocabulary) -> Any:
    """Return the objective's module, its model as large as the vocabulary; ConfigError where it cannot be."""
    size = config.model.vocab_size or vocab.size
    if size < vocab.size - vocab.added or (vocab.named and size < vocab.size):
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


def training_module(config: RunConfig, vocab: Vocabulary) -> Any:
    """Return the module that is trained: the objective's, of a distillation with its teacher.

    Args:
        config: Checked config.
        vocab: Vocabulary of the tokenizer.

    Returns:
        The module; its parameters are those of `make_module`, but for what only training needs.

    Raises:
        ConfigError: The module cannot be, or cannot learn from the teacher.
    """
    module = make_module(config, vocab)
    if not config.distill.teacher:
        return module
    task = get_objective(config)
    if not is_supervised(task):
        raise ConfigError(
            f"distill.teacher = {config.distill.teacher!r} is for tasks with records; the objectives distillation "
            "and layer_distillation have an objective.teacher"
        )
    if any(config.distill.matching) and config.adapt.method != "full":
        raise ConfigError(
            f"adapt.method = {config.adapt.method!r} leaves the map to the teacher's width as it is drawn; with it "
            "distill.attention_weight, hidden_weight and embedding_weight must be 0"
        )
    check_rows(config.objective, config.frame, config.distill, module.model.kind, vocab)
    return make_student(task, config.objective, module.model, config.loss, config.distill)


def spec_of(config: RunConfig, tokenizer: Tokenizer) -> Any:
    """Return the ObjectiveSpec or TaskSpec: what examples depend on besides text and randomness."""
    data = config.data
    return get_objective(config).make_spec(
        config.objective, config.model, data.sequence_length, data.languages, tokenizer, config.frame
    )


def frame_of(config: RunConfig, tokenizer: Tokenizer) -> Frame:
    """Return the form of the texts that the model of a run reads and writes.

    It is the one that the run was given, by its base model or an import, or else its objective's.
    """
    objective = get_objective(config)
    if config.frame is not None and not objective.supervised:
        return config.frame
    return objective.frame(spec_of(config, tokenizer))


def abstract_batch(config: RunConfig, spec: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the abstract global batch [train.batch_size, ...] by name.

    Shapes and dtypes are those of one example of made-up text, or of a task's empty item.
    """
    example = get_objective(config).abstract_example(spec)
    rows = config.train.batch_size
    if config.distill.teacher and config.distill.top_k:
        example = example | no_log_probs(example["targets"].shape[0], config.distill.top_k)
    return {name: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype) for name, leaf in example.items()}


def spec_before_tokenizer(config: RunConfig) -> Any:
    """Return the spec as far as it is known before a vocabulary is trained: all that shapes depend on.

    A vocabulary that is yet to be trained counts with its configured size; the trained one may be smaller.
    """
    if config.tokenizer.path is None and config.tokenizer.kind == "sentencepiece":
        count = len(config.tokenizer.add)
        vocab = Vocabulary(config.tokenizer.vocab_size + count, added=count, named=count)
    else:
        vocab = make_tokenizer(config.tokenizer, ()).vocab
    data = config.data
    return get_objective(config).abstract_spec(
        config.objective, config.model, data.sequence_length, data.languages, vocab, config.frame
    )
