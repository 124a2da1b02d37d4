"""The data part of a run's config: where the text comes from and how it is cut into windows."""

import dataclasses
from typing import Literal

from tlx.base.errors import ConfigError
from tlx.data.readers import RecordsConfig


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Files of the source "text": plain (.txt, .md, .py), .jsonl, .tsv (a conversation a line, tabs between
    its turns) and .parquet; all but the last also .gz."""

    files: tuple[str, ...] = ()  # globs, ** included
    validation_files: tuple[str, ...] = ()  # globs; none: a share of the documents is held out instead
    validation_fraction: float = 0.05  # that share, chosen by a hash of each document's place
    column: str = "text"  # field of .jsonl and .parquet that holds the text
    target_column: str = ""  # field with its translation or answer: a record is a pair of texts
    turns_column: str = ""  # field with a list of turns, in place of the text: a record is a conversation
    rating_columns: tuple[
        str, ...
    ] = ()  # fields with 0, 1 or null: what the last turn of a conversation is rated
    one_document_per_line: bool = (
        False  # whether each line of plain text is a document; else the whole file is one
    )


@dataclasses.dataclass(frozen=True)
class TfdsConfig:
    """A data set of the source "tfds", read without TensorFlow: stored as array_record or parquet."""

    name: str = ""  # "name", "name:config" or TFDS's own "name/config:version"
    data_dir: str | None = None  # folder with prepared data sets; None: TFDS's own
    column: str = "text"  # feature that holds the text
    target_column: str = ""  # feature with its translation or answer: a record is a pair of texts
    turns_column: str = (
        ""  # feature with a sequence of turns, in place of the text: a record is a conversation
    )
    train_split: str = "train"
    validation_split: str = "validation"  # TFDS's slices too: "train[:1%]"


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of documents, by name, and the options of each kind of source."""

    source: str = "python"  # "python", "docstrings", "text", "tfds", or "package.module:attr"
    language: str = ""  # of the text, for objectives that tell languages apart
    target_language: str = ""  # of the second texts of pairs; empty: the same
    text: TextConfig = TextConfig()
    tfds: TfdsConfig = TfdsConfig()


@dataclasses.dataclass(frozen=True)
class WeightedSource(SourceConfig):
    """A source of a mixture; its share of the rows is its weight over the sum of all weights."""

    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class DataConfig(SourceConfig):
    """Text, and how it becomes batches."""

    mixture: tuple[WeightedSource, ...] = ()  # several sources instead of the one above
    # A source's share is its weight times its number of tokens to this power (XLM: .5 or .7, mT5: .3).
    mixture_power: float = 0.0
    sequence_length: int = 512  # tokens of a row of the model (of the encoder, where there are two)
    packing: Literal["concat", "best_fit"] = (
        "concat"  # cut the joined documents, or fill rows with whole ones
    )
    add_eos: bool = True  # whether every document ends with eos
    shuffle: bool = True  # a new order of the windows each epoch
    workers: int = 0  # processes that build batches ahead; 0: a thread
    records: RecordsConfig = RecordsConfig()  # of a task, which reads these and none of the sources

    @property
    def sources(self) -> tuple[WeightedSource, ...]:
        """The sources with their weights, one or more."""
        if self.mixture:
            return self.mixture
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(SourceConfig)}
        return (WeightedSource(**shared),)

    @property
    def languages(self) -> tuple[str, ...]:
        """The names of all sources' languages, each once, in the order in which they come."""
        names = [name for source in self.sources for name in (source.language, source.target_language)]
        return tuple(dict.fromkeys(name for name in names if name)) or ("",)

    def language_numbers(self, source: SourceConfig) -> tuple[int, int]:
        """Places in `languages` of a source's texts and of their translations."""
        own = self.languages.index(source.language) if source.language else 0
        return own, self.languages.index(source.target_language) if source.target_language else own

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        if self.sequence_length < 2:
            raise ConfigError(f"data.sequence_length = {self.sequence_length} must be 2 or more")
        if not 0 <= self.mixture_power <= 1:
            raise ConfigError(f"data.mixture_power = {self.mixture_power} must lie in 0..1")
        if self.workers < 0:
            raise ConfigError(f"data.workers = {self.workers} must be 0 (a thread) or more processes")
        rated = {source.text.rating_columns for source in self.sources if source.text.rating_columns}
        if len(rated) > 1:
            raise ConfigError(f"data.mixture has sources with different text.rating_columns: {sorted(rated)}")
        for i, source in enumerate(self.sources):
            where = f"data.mixture[{i}]" if self.mixture else "data"
            if not source.weight > 0:
                raise ConfigError(f"{where}.weight = {source.weight} must be above 0")
            if source.source == "text" and not source.text.files:
                raise ConfigError(f"{where}.text.files is empty; give globs such as ('corpus/*.jsonl',)")
            if not 0 < source.text.validation_fraction < 1:
                raise ConfigError(
                    f"{where}.text.validation_fraction = {source.text.validation_fraction} "
                    "must lie between 0 and 1"
                )
            if source.text.turns_column and source.text.target_column:
                raise ConfigError(f"{where}.text: a record is a pair (target_column) or has turns_column")
            if source.text.rating_columns and not source.text.turns_column:
                raise ConfigError(
                    f"{where}.text.rating_columns = {source.text.rating_columns} needs turns_column"
                )
            if source.source == "tfds" and not source.tfds.name:
                raise ConfigError(f"{where}.tfds.name is empty; give one such as 'lm1b' or 'wiki40b:en'")
