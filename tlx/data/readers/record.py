"""A labelled record, and the config of the files that hold records."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.bad_records import surrogate_in

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "conll", "conll2012", "gap", "squad", "lines")


class Record(NamedTuple):
    """One labelled record of a file."""

    where: str
    """Location for messages, "file:line"."""
    values: Mapping[str, Any]
    """Values by column."""
    set: str = ""
    """Name of the record set it belongs to; empty where there is only one."""

    def get(self, column: str, field: str) -> Any:
        """Return the value of a column, or a value nested in one ("instances.0.output").

        `field` is the config key that names the column, for messages. Raises DataError for an unknown column.
        """
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for key in column.split("."):
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif _is_list(value) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise DataError(f"{self.where} has no such column: " + one_of(field, column, self.values))
        return value

    def text(self, column: str, field: str) -> str:
        """Return the value as `get` does. Raises DataError where it is not text."""
        value = self.get(column, field)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {column!r} is {type(value).__name__}, {field} wants text")
        return value

    def joined(self, column: str, field: str) -> str:
        """Return the value as text: numbers are converted, the items of a list joined with spaces.

        Raises DataError where it is, or contains, anything but texts and numbers.
        """
        value = self.get(column, field)
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str | int | float) for item in items):
            raise DataError(f"{self.where}: {column!r} is {type(value).__name__}, {field} wants texts")
        return " ".join(map(str, items))


def valid_text(record: Record, text: str) -> str:
    """Return a text of a record. Raises DataError where it is not valid Unicode."""
    problem = surrogate_in(text)
    if problem:
        raise DataError(f"{record.where}: {text[:40]!a} {problem}")
    return text


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """Files with labelled records, and how to read them."""

    train: tuple[str, ...] = ()
    """Globs of the training files, or folders; "FILE.json::key", or "tfds:NAME::SPLIT" of TensorFlow Datasets."""
    validation: tuple[str, ...] = ()
    """Globs of the validation files; empty: `validation_fraction` of the training records is held out."""
    test: tuple[str, ...] = ()
    """Globs of the test files; empty: no test set."""
    validation_fraction: float = 0.1
    """Fraction of the training records that is held out, between 0 and 1, by a hash of their location."""
    group_column: str = ""
    """Column to hash instead of the location, so that records with equal values stay together; empty: none."""
    format: str = ""
    """Format of the files: jsonl, json, csv, tsv, parquet, conll, conll2012, gap, squad or lines; empty: by file
    ending."""
    quoting: bool = True
    """Whether quotes in csv and tsv enclose fields; off: they are part of the text."""
    columns: tuple[str, ...] = ()
    """Column names in order, for csv and tsv without a header, JSON lists and CoNLL; "" skips a column."""
    encoding: str = "utf-8"
    """Character encoding of text files, by its Python name."""
    data_dir: str = ""
    """Folder of the data sets of TensorFlow Datasets; empty: its default folder."""
    limit: int = 0
    """Maximum number of training records, a random subset by the run's seed; 0: all."""

    def check(self, field: str) -> None:
        """Check the options of the group `field`. Raises ConfigError with the value and the legal values."""
        if self.format and self.format not in FORMATS:
            raise ConfigError(one_of(f"{field}.format", self.format, FORMATS))
        if not self.train:
            raise ConfigError(f"{field}.train is empty; give globs such as ('reviews/*.jsonl',)")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"{field}.validation_fraction = {self.validation_fraction} must lie between 0 and 1"
            )
        if self.limit < 0:
            raise ConfigError(f"{field}.limit = {self.limit} must not be negative")


@dataclasses.dataclass(frozen=True)
class RecordSet(RecordFiles):
    """One of several named sets of records."""

    name: str = ""
    """Name of the set, unique and not empty."""


@dataclasses.dataclass(frozen=True)
class RecordsConfig(RecordFiles):
    """Files with labelled records, or several sets of them for multi-task training.

    A set's fraction of the rows is proportional to min(its records, max_set_size) ** (1 / temperature)
    (Raffel et al. 2020, 3.5.2).
    """

    epochs: float = 0.0
    """Passes over the training rows; 0: the run lasts train.steps."""
    sets: tuple[RecordSet, ...] = ()
    """Several sets of records, instead of the files above; empty: one set."""
    temperature: float = 1.0
    """Sampling temperature over the sets, at least 1; 1 is proportional, larger is closer to uniform."""
    max_set_size: int = 0
    """Number of records beyond which a set gets no more rows; 0: no limit."""

    @property
    def tested(self) -> bool:
        """Whether any set has test files."""
        return any(files.test for files in self.sets or (self,))

    def validate(self) -> None:
        """Check all fields. Raises ConfigError naming the field, its value and the legal values."""
        names = [record_set.name for record_set in self.sets]
        if len(set(names)) < len(names) or "" in names:
            raise ConfigError(f"data.records.sets are called {names}: each needs a unique name")
        if self.sets and (self.train or self.validation or self.test):
            raise ConfigError("data.records has files and sets; where there are sets, they have the files")
        for i, record_set in enumerate(self.sets):
            record_set.check(f"data.records.sets[{i}]")
        if not self.sets:
            self.check("data.records")
        if self.epochs < 0 or self.max_set_size < 0:
            name = "epochs" if self.epochs < 0 else "max_set_size"
            raise ConfigError(f"data.records.{name} = {getattr(self, name)} must not be negative")
        if self.temperature < 1:
            raise ConfigError(f"data.records.temperature = {self.temperature} must be at least 1")
