"""A record of a file, and how a config says where the records are."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError, DataError, one_of

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "conll", "squad", "lines")


class Record(NamedTuple):
    """One record: where it stands ("file:line"), for messages, its values by column, and which of several
    sets it is of."""

    where: str
    values: Mapping[str, Any]
    set: str = ""

    def get(self, column: str, field: str) -> Any:
        """The value of a column, or inside it ("instances.0.output"). DataError naming the config's `field`
        and the columns that there are."""
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for key in column.split("."):
            inside = (
                value if isinstance(value, Mapping) else dict(enumerate(value)) if _is_list(value) else {}
            )
            key = int(key) if _is_list(value) and key.isdigit() else key
            if key not in inside:
                raise DataError(f"{self.where} has no such column: " + one_of(field, column, self.values))
            value = inside[key]
        return value

    def text(self, column: str, field: str) -> str:
        """The same, a text."""
        value = self.get(column, field)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {column!r} is {type(value).__name__}, {field} wants text")
        return value

    def joined(self, column: str, field: str) -> str:
        """The same, where a number is as it is written and items of a list have spaces between them."""
        value = self.get(column, field)
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str | int | float) for item in items):
            raise DataError(f"{self.where}: {column!r} is {type(value).__name__}, {field} wants texts")
        return " ".join(map(str, items))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """Files with labelled records, and how to read them.

    Files are globs (.gz too); of a json file "FILE::key" are the records under a key. "tfds:NAME::SPLIT" are
    those of a data set of TensorFlow Datasets, whose data sets are in data_dir ("": its own). format: one of
    FORMATS, "" is the files' ending. quoting: whether quotes in csv and tsv enclose fields; off, they are
    part of the text. columns: names in order, for files that do not name their columns themselves (csv and
    tsv without a header, lists in json, CoNLL; "" is a column that does not matter).

    Without validation files a share of the training records is held out, chosen by a hash of their place; or
    of what they have in column `group_column`, so that records of one premise, one context, stay on one side.
    limit: so many of the training records, a random choice by the run's seed; 0: all.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    group_column: str = ""
    format: str = ""
    quoting: bool = True
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"
    data_dir: str = ""
    limit: int = 0

    def check(self, field: str) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
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
    """One of several sets of records, and what it is called."""

    name: str = ""


@dataclasses.dataclass(frozen=True)
class RecordsConfig(RecordFiles):
    """Files with labelled records; or several sets of them, for tasks that learn several things at once.

    Of sets, the share of rows is a set's number of records, `max_set_size` of them at most (0: all), to the
    power 1 / temperature: 1 is in proportion, more is more alike (Raffel et al. 2020, 3.5.2). epochs: passes
    over the training records (rows made of them) that the run makes; 0: it makes train.steps.
    """

    epochs: float = 0.0
    sets: tuple[RecordSet, ...] = ()
    temperature: float = 1.0
    max_set_size: int = 0

    @property
    def tested(self) -> bool:
        """Whether there are test files."""
        return any(one.test for one in self.sets or (self,))

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        names = [one.name for one in self.sets]
        if len(set(names)) < len(names) or "" in names:
            raise ConfigError(f"data.records.sets are called {names}: each needs a name of its own")
        if self.sets and (self.train or self.validation or self.test):
            raise ConfigError("data.records has files and sets; where there are sets, they have the files")
        for i, one in enumerate(self.sets):
            one.check(f"data.records.sets[{i}]")
        if not self.sets:
            self.check("data.records")
        if self.epochs < 0 or self.max_set_size < 0:
            name = "epochs" if self.epochs < 0 else "max_set_size"
            raise ConfigError(f"data.records.{name} = {getattr(self, name)} must not be negative")
        if self.temperature < 1:
            raise ConfigError(f"data.records.temperature = {self.temperature} must be at least 1")
