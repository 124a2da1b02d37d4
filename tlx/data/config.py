"""Data config: the sources of text and records, and how text is cut into windows."""

import dataclasses
from typing import Annotated, Literal

from tlx.base.errors import ConfigError
from tlx.data.bad_records import BadRecordPolicy
from tlx.data.filters import FilterConfig
from tlx.data.readers import RecordsConfig
from tlx.data.sources import TABLE as SOURCES


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Files of the source "text".

    Formats by file ending: plain text (.txt, .md, .py), .jsonl, .tsv (one conversation per line, its turns
    separated by tabs), .parquet, and .arrow as Hugging Face's `datasets` saves it. All but .parquet and .arrow may be
    compressed (.gz, .zst).
    """

    files: tuple[str, ...] = ()
    """Globs of the training files, or folders, of which all files of these endings are read; ** matches folders
    of any depth. Files of buckets begin with gs:// or s3://."""
    validation_files: tuple[str, ...] = ()
    """Globs or folders of the validation files; empty: `validation_fraction` of the text is held out instead."""
    validation_fraction: float = 0.05
    """Fraction of the text that is held out, between 0 and 1."""
    hold_out: Literal["stretches", "documents"] = "stretches"
    """Unit of validation text that is held out of plain files with a document each: "stretches" of every file, where
    there are at most 10 of them, or 100 that are long enough; or whole "documents", by a hash of their names, as of
    all other formats."""
    clean: bool = True
    """Whether a byte order mark at the start of a file, and carriage returns at the ends of lines that are documents
    or conversations, are dropped, and documents without a visible character are left out as empty ones are."""
    column: str = "text"
    """Field of .jsonl, .parquet and .arrow records that holds the text."""
    target_column: str = ""
    """Field with the translation or the answer: each record is then a pair of texts; empty: no pairs."""
    turns_column: str = ""
    """Field with a list of turns, read instead of `column`: each record is then a conversation; empty: none."""
    rating_columns: tuple[str, ...] = ()
    """Fields with the ratings of a conversation's last turn: 0, 1, or null for not rated."""
    one_document_per_line: bool = False
    """Whether each line of plain text is a document; otherwise each file is one."""


@dataclasses.dataclass(frozen=True)
class TfdsConfig:
    """A data set of the source "tfds", read without TensorFlow; stored as array_record or parquet."""

    name: str = ""
    """Name of the data set: "name", "name:config", or TFDS's own "name/config:version"."""
    data_dir: str | None = None
    """Folder of the prepared data sets; None: the default folder of TFDS."""
    column: str = "text"
    """Feature that holds the text."""
    target_column: str = ""
    """Feature with the translation or the answer: each record is then a pair of texts; empty: no pairs."""
    turns_column: str = ""
    """Feature with a sequence of turns, read instead of `column`: each record is then a conversation."""
    train_split: str = "train"
    """Split to train on; slices of TFDS are allowed ("train[1%:]")."""
    validation_split: str = "validation"
    """Split to validate on; slices of TFDS are allowed ("train[:1%]")."""


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of documents by name, and the options of each kind of source."""

    source: Annotated[str, SOURCES] = "python"
    """Name of the source: "python", "docstrings", "text", "tfds", or "package.module:attr"."""
    language: str = ""
    """Language of the text, for objectives that distinguish languages; empty: none is named."""
    target_language: str = ""
    """Language of the second texts of pairs; empty: the same as `language`."""
    text: TextConfig = TextConfig()
    """Options of the source "text"."""
    tfds: TfdsConfig = TfdsConfig()
    """Options of the source "tfds"."""


MAX_SEQUENCE_LENGTH = 2**24


@dataclasses.dataclass(frozen=True)
class WeightedSource(SourceConfig):
    """One source of a mixture, with its sampling weight."""

    weight: float = 1.0
    """Sampling weight, above 0: the source's fraction of the rows is its weight over the sum of all."""


@dataclasses.dataclass(frozen=True)
class MixtureStage:
    """Weights of a mixture from a batch on."""

    step: int = 1
    """Number of batches before the first one with these weights, 1 or more; that batch is step + 1 of a run."""
    weights: tuple[float, ...] = ()
    """Sampling weight of each source of data.mixture from there on, above 0."""


@dataclasses.dataclass(frozen=True)
class DataConfig(SourceConfig):
    """The text to train on, and how it is turned into batches."""

    tokens: str = ""
    """Folder or bucket with the corpus that `tlx data prepare` made of these sources; empty: they are tokenised in
    the cache folder of this machine."""
    cache_gigabytes: float = 0.0
    """Gigabytes of the shards of a corpus in a bucket that each machine keeps in its cache folder; 0: none. Shards
    are fetched beside the training until it is full."""
    filter: FilterConfig = FilterConfig()
    """Records that `tlx data prepare` leaves out."""
    mixture: tuple[WeightedSource, ...] = ()
    """Several sources with weights, used instead of `source`; empty: `source` alone."""
    mixture_power: float = 0.0
    """Exponent in 0..1: weights are multiplied by a source's number of tokens to this power (XLM .5, mT5 .3)."""
    schedule: tuple[MixtureStage, ...] = ()
    """Stages with other weights than those of data.mixture, by ascending step; empty: they never change. In each
    source, a stage goes on where the one before it ended."""
    sequence_length: int = 512
    """Tokens of one row of the model (of the encoder, in an encoder-decoder), 2 or more."""
    packing: Literal["concat", "best_fit"] = "concat"
    """Mode: "concat" cuts the concatenated documents into rows; "best_fit" fills rows with whole documents."""
    add_eos: bool = True
    """Whether eos is appended to every document."""
    shuffle: bool = True
    """Whether the windows come in a new order each epoch."""
    workers: int = 0
    """Number of processes that build batches ahead; 0: one thread of this process."""
    on_bad_record: Literal["error", "skip", "keep"] = "error"
    """Treatment of documents and records that cannot be used (broken lines, null or invalid text, records without
    a label): "error" stops at the first; "skip" leaves them out and says how many; "keep" is "error" for what
    cannot be read, but takes empty labels for classes and the last of two columns of one name."""
    max_bad_records: int = 1000
    """Number of skipped records of a split beyond which there is an error, at least 0."""
    records: RecordsConfig = RecordsConfig()
    """Labelled records, which tasks read instead of the sources."""

    @property
    def sources(self) -> tuple[WeightedSource, ...]:
        """Sources with their weights; at least one."""
        if self.mixture:
            return self.mixture
        single = WeightedSource(
            source=self.source,
            language=self.language,
            target_language=self.target_language,
            text=self.text,
            tfds=self.tfds,
        )
        return (single,)

    @property
    def bad_records(self) -> BadRecordPolicy:
        """Treatment of documents and records that cannot be used."""
        return BadRecordPolicy(self.on_bad_record, self.max_bad_records)

    @property
    def languages(self) -> tuple[str, ...]:
        """Distinct languages of all sources, in order of first appearance; one empty name where none is given."""
        names = [name for source in self.sources for name in (source.language, source.target_language)]
        return tuple(dict.fromkeys(name for name in names if name)) or ("",)

    def language_numbers(self, source: SourceConfig) -> tuple[int, int]:
        """Return the indices in `languages` of a source's texts and of their translations."""
        language = self.languages.index(source.language) if source.language else 0
        if not source.target_language:
            return language, language
        return language, self.languages.index(source.target_language)

    def validate(self) -> None:
        """Check all fields. Raises ConfigError naming the field, its value and the legal values."""
        # Rows are made in memory to learn their shapes, before anything is compiled.
        if not 2 <= self.sequence_length <= MAX_SEQUENCE_LENGTH:
            raise ConfigError(
                f"data.sequence_length = {self.sequence_length} must lie in 2..{MAX_SEQUENCE_LENGTH}"
            )
        if not 0 <= self.mixture_power <= 1:
            raise ConfigError(f"data.mixture_power = {self.mixture_power} must lie in 0..1")
        if self.workers < 0:
            raise ConfigError(f"data.workers = {self.workers} must be 0 (a thread) or more processes")
        if self.max_bad_records < 0:
            raise ConfigError(f"data.max_bad_records = {self.max_bad_records} must be 0 or more")
        if self.cache_gigabytes < 0:
            raise ConfigError(f"data.cache_gigabytes = {self.cache_gigabytes} must be 0 (no cache) or more")
        self.filter.validate()
        self._validate_schedule()
        rated = {source.text.rating_columns for source in self.sources if source.text.rating_columns}
        if len(rated) > 1:
            raise ConfigError(f"data.mixture has sources with different text.rating_columns: {sorted(rated)}")
        for i, source in enumerate(self.sources):
            where = f"data.mixture[{i}]" if self.mixture else "data"
            if not source.weight > 0:
                raise ConfigError(f"{where}.weight = {source.weight} must be above 0")
            if source.source == "text" and not source.text.files:
                raise ConfigError(
                    f"{where}.text.files is empty; give files, a folder, or globs such as 'corpus/*.jsonl'"
                )
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

    def _validate_schedule(self) -> None:
        if self.schedule and not self.mixture:
            raise ConfigError("data.schedule changes the weights of data.mixture, which is empty")
        last = 0
        for i, stage in enumerate(self.schedule):
            where = f"data.schedule[{i}]"
            if stage.step <= last:
                raise ConfigError(
                    f"{where}.step = {stage.step} must be above {last}: stages come by ascending step"
                )
            last = stage.step
            if len(stage.weights) != len(self.mixture) or not all(weight > 0 for weight in stage.weights):
                raise ConfigError(
                    f"{where}.weights = {stage.weights} must be {len(self.mixture)} numbers above 0, one for each "
                    "source of data.mixture"
                )
