"""The base class of tasks: objectives whose examples are made of labelled records.

Keys of a batch, each with a leading batch dim: those of objectives (tokens, positions, segments, types, with
encoder_ and decoder_ in front for encoder-decoders), and

    place       int32 [B]: the position whose hidden state represents the row
    label       int32 or float32 [B, ...]
    weights     float32 [B]: 0 for rows that only fill a batch

Where an example is several rows of tokens (both orders of a pair, the choices of a question) they have a dim
after the batch's: tokens [B, K, T], place [B, K]. Where a row holds several examples (packed_examples.py),
place, label and weights have one: tokens [B, T], place [B, P].
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeGuard

import jax
import numpy as np
from typing_extensions import override

from tlx.adapt.config import AdaptConfig
from tlx.base.errors import ConfigError, DataError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record, valid_text
from tlx.metrics.resampling import Statistic
from tlx.models.config import ModelConfig
from tlx.objectives.shared.base import Batch, LossModule, Objective
from tlx.tasks.shared.frames import frames_of, task_frame, tlx_frame
from tlx.text.characters import PAD, character_table
from tlx.text.frames import Frame, RowFrame
from tlx.text.imported_frame import imported_frame
from tlx.text.tokenizer import Tokenizer
from tlx.text.vocabulary import Vocabulary

Prediction = dict[str, Any]
"""The prediction for a record, as it is written to a file: JSON."""

Languages = tuple[str | None, str | None]
"""Names of the language, the control code or the mode of a text, and of a second or a written one."""

Columns = tuple[tuple[str, str], ...]
"""Names of a record's columns, each with the config's field that names it."""


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSpec:
    """Values that examples and scores depend on besides the records."""

    config: Any
    """The task's config."""
    length: int
    """Sequence length of the model, in tokens; of the encoder and of the decoder where there are two."""
    vocab: Vocabulary
    """Vocabulary of the tokenizer."""
    kind: str
    """ModelConfig.kind."""
    prompt: tuple[int, ...] = ()
    """Ids of a trained prompt (prompt tuning), which precede the texts."""
    frames: tuple[RowFrame, ...] = ()
    """The tokenizer's own template of a row of one text and, where it has one, of two; () takes tlx's rows."""
    tokenizer: Tokenizer | None = None
    """For predictions that are texts; None in data workers, which only make examples."""
    frame: Frame | None = None
    """The form of the texts that the base model was trained with; None takes tlx's rows."""
    characters: np.ndarray | None = None
    """int32 [V, W], the characters of each id (text/characters.py), for a bilstm; None for other models."""

    def row_frame(self, num_texts: int) -> RowFrame | None:
        """Return the ids around so many texts of a row, of no language in particular; None for tlx's rows."""
        if self.frames:
            return self.frames[num_texts - 1]
        return None if self.frame is None else task_frame(self.frame, self.kind, self.vocab).row(num_texts)


class Item(NamedTuple):
    """A record ready for `Task.example`."""

    texts: tuple[np.ndarray, ...]
    """int32 ids of each text, without special ids."""
    label: Any
    """The label as a number or an array; None where it is not known."""
    record: int = 0
    """Index of the record."""
    languages: Languages = (None, None)
    """Names of the languages, the control code or the mode of the texts; None is the default of the frame."""


class GenerationRequest(NamedTuple):
    """Texts that a model is to generate for items, with their decoding settings."""

    prompts: Sequence[Sequence[int]]
    """Ids that each text continues; of the decoder where there is an encoder."""
    sources: Sequence[Sequence[int]] | None
    """Ids that the encoder reads; None for decoders."""
    max_tokens: int
    """Most ids of a text, eos included."""
    num_beams: int = 0
    """Beams; 0 is greedy search."""
    length_penalty: float = 1.0
    """Exponent of the length by which the scores of beams are divided."""
    end: int | None = None
    """Id that ends a text; None is eos."""
    stop: str = ""
    """A string that ends a text too; empty is none."""


class Scores(NamedTuple):
    """Metrics of predictions."""

    figures: dict[str, float]
    """Metrics by name."""
    main: str
    """Name of the primary metric."""
    statistic: Statistic
    """The primary metric as a function of record indices, for the bootstrap."""
    majority_baseline: float = 0.0
    """The primary metric where every record gets the same, most frequent prediction."""
    lower_is_better: bool = False
    """Whether a smaller primary metric is better."""


class TaskModule(LossModule):
    """Base of every task's module: outputs of a head, from which the loss and the predictions are made."""

    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return what predictions and losses are made of, float32 [B, ...] each; keys as in `__call__`."""
        raise NotImplementedError

    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the term "loss" and further metrics; weights are a function of the batch alone."""
        raise NotImplementedError

    can_distill: ClassVar[bool] = False
    """Whether `soft_loss` is defined: a student can learn from a teacher (student.py)."""
    has_head: ClassVar[bool] = True
    """Whether there are parameters beside those of the language model."""

    def soft_inputs(self, batch: Batch, keys: jax.Array | None = None) -> Any:
        """Return what `hard_terms` and `soft_loss` are computed from; keys as in `__call__`."""
        return self.outputs(batch, keys)

    def hard_terms(self, inputs: Any, batch: Batch) -> Terms:
        """Return the terms of `__call__`, given `soft_inputs`."""
        return self.terms(inputs, batch)

    def soft_loss(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Term:
        """Compare a student with its teacher.

        Args:
            student: Its `soft_inputs`.
            teacher: Those of the teacher, without a gradient.
            batch: Arrays of a batch.
            temperature: Temperature T of both distributions.

        Returns:
            The divergence, 0 where both are the same, with the weight T^2 in the loss.
        """
        raise NotImplementedError

    def stored_loss(self, student: Any, batch: Batch, temperature: float) -> Term:
        """Compare a student with log-probabilities of its teacher that stand in the batch.

        Args:
            student: Its `soft_inputs`.
            batch: Arrays of a batch, with teacher_ids and teacher_log_probs.
            temperature: Temperature T of both distributions.

        Returns:
            As `soft_loss`.
        """
        raise NotImplementedError

    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Compute the terms of the loss.

        Args:
            batch: Arrays of a batch, see the module's docstring.
            carry: None: rows of tasks have no memory.
            keys: A PRNG key for each row, [B]; None draws nothing (no dropout).

        Returns:
            The terms, and None.
        """
        return self.terms(self.outputs(batch, keys), batch), None

    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """Return (terms, outputs) without dropout."""
        outputs = self.outputs(batch)
        return self.terms(outputs, batch), outputs


class Task(Objective):
    """Base class of tasks; a file exports one instance under the name TASK.

    `prepare` makes items of records, `example` a row of an item, `predictions` what is said of each record,
    `score` how good that is. As of objectives, instances are pickled to data workers and hold nothing.
    """

    supervised = True
    one_to_many: bool = False
    """Whether a record may become several items (windows, pieces)."""

    def infer_labels(self, config: Any, records: Sequence[Record]) -> Any:
        """Return the config with what only training records say: the names of the classes."""
        return config

    @override
    def frame(self, spec: TaskSpec) -> Frame:
        """Return the form of the texts of the base model, or of tlx's rows."""
        if spec.frame is not None:
            return spec.frame
        if spec.frames and spec.tokenizer is not None:
            return imported_frame(spec.tokenizer, spec.kind)
        return tlx_frame(spec.kind, spec.vocab, spec.tokenizer)

    def with_base(self, config: Any, path: str, adapt: AdaptConfig) -> Any:
        """Return the config with what follows from the base model: a reference that the model is compared with.

        Args:
            config: The task's config.
            path: Directory of the base model; "" for a run without one, or from fresh parameters.
            adapt: What of it is trained.

        Returns:
            The config.
        """
        del path, adapt
        return config

    def text_columns(self, config: Any) -> Columns:
        """Return the columns that hold input texts."""
        raise NotImplementedError

    def target_columns(self, config: Any) -> Columns:
        """Return the columns that hold texts to generate, which a vocabulary has to cover too."""
        return ()

    def check_record(self, config: Any, record: Record) -> None:
        """Raise DataError for a labelled record that cannot be used, before anything is tokenized.

        `config` may still lack what `infer_labels` adds. What only a tokenizer shows, `prepare` raises.
        """
        for name, _ in (*self.text_columns(config), *self.target_columns(config)):
            check_unicode(record, record.values.get(name))

    def figures_of_terms(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Return further metrics that follow from the means of the module's terms over a split."""
        del terms
        return {}

    def ceiling(self, items: Sequence[Any], records: Sequence[Record], spec: TaskSpec) -> Scores | None:
        """Return the scores of predictions that are right at every position that is learned.

        They are below perfect where the tokenizer cannot express the labels, or a row cannot hold them.

        Args:
            items: What `prepare` made of the records, with labels.
            records: The records.
            spec: What examples depend on.

        Returns:
            The scores; None for tasks whose labels do not go through the tokenizer.
        """
        return None

    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[Any]:
        """Make items of records.

        Args:
            records: The records.
            tokenizer: The run's tokenizer.
            spec: What examples depend on.
            labelled: Whether labels are read; False is for prediction.

        Returns:
            Items in the order of the records, one for each, or several with `one_to_many`. Each has the index
            of its record as `record`.

        Raises:
            DataError: A record does not fit; the message names it.
        """
        raise NotImplementedError

    def empty_item(self, spec: TaskSpec) -> Any:
        """Return an item of no record, whose example fills up batches and has the shapes of all others."""
        raise NotImplementedError

    @override
    def example(self, rng: np.random.Generator, item: Any, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make one row of a batch.

        Args:
            rng: Random generator of this row.
            item: What `prepare` made.
            spec: What examples depend on.

        Returns:
            int32 and float32 arrays, of the same names and shapes for every item.
        """
        raise NotImplementedError

    def predictions(
        self, outputs: Mapping[str, Any], items: Sequence[Any], spec: TaskSpec
    ) -> list[Prediction]:
        """Make predictions of the module's outputs.

        Args:
            outputs: Arrays [items, ...] of `TaskModule.outputs`; "written" has the ids that were generated
                for each item, where `generation_requests` asked for them.
            items: The items, all of each record that occurs.
            spec: What examples depend on.

        Returns:
            One prediction for each record, in their order.
        """
        raise NotImplementedError

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compare predictions with the labels of their records.

        Args:
            predictions: One prediction for each record.
            records: The records, with labels.
            spec: What examples depend on.

        Returns:
            The metrics.
        """
        raise NotImplementedError

    def draw(
        self,
        predictions: Sequence[Prediction],
        records: Sequence[Record],
        spec: TaskSpec,
        folder: pathlib.Path,
        split: str,
    ) -> None:
        """Draw pictures of the predictions, where the task has some.

        Args:
            predictions: One prediction for each record.
            records: The records, with labels.
            spec: What examples depend on.
            folder: Folder of the files.
            split: Name of the split, with which their names end.
        """

    def generation_requests(self, items: Sequence[Any], spec: TaskSpec) -> GenerationRequest | None:
        """Return what to generate for items; None where predictions need no generated text."""
        return None

    def packs(self, config: Any) -> bool:
        """Return whether a row of training holds several items: `example_size` and `join` then apply."""
        return False

    def example_size(self, item: Any, spec: TaskSpec) -> int:
        """Return how many tokens of a row an item takes, for packing."""
        raise NotImplementedError

    def join(self, items: Sequence[Any]) -> Any:
        """Return one item of several, for packing."""
        raise NotImplementedError

    @override
    def make_spec(
        self,
        config: Any,
        model: ModelConfig,
        length: int,
        languages: tuple[str, ...],
        tokenizer: Tokenizer,
        frame: Frame | None = None,
    ) -> TaskSpec:
        """Build what the examples of a run depend on.

        Args:
            config: The task's config.
            model: Config of the model.
            length: Sequence length in tokens.
            languages: Ignored; records have no language.
            tokenizer: The run's tokenizer.
            frame: The form of the texts that the base model was trained with; None: that of tlx's rows.

        Returns:
            The spec.
        """
        spec = self.abstract_spec(config, model, length, languages, tokenizer.vocab, frame)
        frames: tuple[RowFrame, ...] = ()
        if getattr(config, "frame", "model") == "tokenizer":
            frames = frames_of(tokenizer, len(self.text_columns(config)))
        characters = spec.characters
        if model.kind == "bilstm":
            characters = character_table(tokenizer, model.recurrent.characters.max_characters)
        return dataclasses.replace(spec, tokenizer=tokenizer, frames=frames, characters=characters)

    @override
    def abstract_spec(
        self,
        config: Any,
        model: ModelConfig,
        length: int,
        languages: tuple[str, ...],
        vocab: Vocabulary,
        frame: Frame | None = None,
    ) -> TaskSpec:
        """Build the spec as far as shapes depend on it, before there is a tokenizer.

        Args:
            config: The task's config.
            model: Config of the model.
            length: Sequence length in tokens.
            languages: Ignored; records have no language.
            vocab: The vocabulary that the tokenizer will have.
            frame: As make_spec's.

        Returns:
            The spec.
        """
        # The ids of a trained prompt follow those of the padded vocabulary.
        first = dataclasses.replace(model, vocab_size=model.vocab_size or vocab.size).padded_vocab
        prompt = tuple(range(first, first + model.adapters.prompt_length))
        trained = None if getattr(config, "frame", "model") == "tlx" else frame
        characters = None
        if model.kind == "bilstm":
            # One value seen as a whole table: only its shape is read before there is a tokenizer.
            shape = (vocab.size, model.recurrent.characters.max_characters)
            characters = np.broadcast_to(np.int32(PAD), shape)
        return TaskSpec(config, length, vocab, model.kind, prompt, frame=trained, characters=characters)

    @override
    def check_spec(self, spec: TaskSpec) -> None:
        """Raise ConfigError if rows cannot be made with this spec."""
        self.abstract_example(spec)

    @override
    def abstract_example(self, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make the example of an empty item, for the names, shapes and dtypes of a batch."""
        return self.example(np.random.default_rng(0), self.empty_item(spec), spec)


def is_supervised(objective: Objective) -> TypeGuard[Task]:
    """Return whether an objective is a task, for code that goes on with its records and labels."""
    return objective.supervised


def check_unicode(record: Record, value: Any) -> None:
    """Raise DataError where a text in a value, or nested in it, is not valid Unicode."""
    if isinstance(value, str):
        valid_text(record, value)
    elif isinstance(value, Mapping):
        for item in value.values():
            check_unicode(record, item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_unicode(record, item)


def check_texts(record: Record, columns: Columns) -> None:
    """Raise DataError where a column is missing, holds no text or a text that is not valid Unicode."""
    for name, field in columns:
        valid_text(record, record.text(name, field))


def languages_of(records: Sequence[Record], columns: tuple[str, str], spec: TaskSpec) -> list[Languages]:
    """Read the names that the base model's frame has for texts: of languages, control codes or modes.

    Args:
        records: The records.
        columns: Column of the first text's name, and of the second's or the written one's; "" is none.
        spec: What examples depend on.

    Returns:
        Both names of each record; None where there is no column.

    Raises:
        ConfigError: There is a column, but the base model was trained without such names.
        DataError: A record has a name that the base model was not trained with, or none.
    """
    if not any(columns):
        return [(None, None)] * len(records)
    if spec.frame is None or not spec.frame.marks:
        raise ConfigError(
            f"objective.language = {next(filter(None, columns))!r}: the base model was trained without languages, "
            "control codes or modes; leave it out"
        )
    languages = []
    for record in records:
        first, second = (record.text(name, "objective.language") if name else None for name in columns)
        try:
            spec.frame.named(first, second)
        except ConfigError as error:
            raise DataError(f"{record.where}: {error}") from error
        languages.append((first, second))
    return languages


def encode_columns(
    records: Sequence[Record], columns: Sequence[tuple[str, str]], tokenizer: Tokenizer
) -> list[tuple[np.ndarray, ...]]:
    """Tokenize columns of records.

    Args:
        records: The records.
        columns: Names of columns, each with the config's field that names it (for messages).
        tokenizer: The run's tokenizer.

    Returns:
        For each record int32 ids of its columns, without special ids.
    """
    encoded = [
        tokenizer.encode_batch([valid_text(record, record.text(name, field)) for record in records])
        for name, field in columns
    ]
    return list(zip(*encoded, strict=True))
