"""A record of a file, and how a config says where the records are."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError, DataError, one_of

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "conll", "squad", "lines")


class Record(NamedTuple):
    """One record: where it stands ("file:line"), for messages, and its values by column."""

    where: str
    values: Mapping[str, Any]

    def get(self, column: str, field: str) -> Any:
        """The value of a column; DataError naming the config's `field` and the columns that there are."""
        if column not in self.values:
            raise DataError(f"{self.where} has no such column: " + one_of(field, column, self.values))
        return self.values[column]

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


@dataclasses.dataclass(frozen=True)
class RecordsConfig:
    """Files with labelled records, and how to read them.

    Files are globs (.gz too); of a json file "FILE::key" are the records under a key. format: one of
    FORMATS, "" is the files' ending. quoting: whether quotes in csv and tsv enclose fields; off, they are
    part of the text. columns: names in order, for files that do not name their columns themselves (csv and
    tsv without a header, lists in json, CoNLL; "" is a column that does not matter).

    Without validation files a share of the training records is held out, chosen by a hash of their place.
    limit: so many of the training records, a random choice by the run's seed; 0: all.
    epochs: passes over the training records that the run makes; 0: it makes train.steps.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    format: str = ""
    quoting: bool = True
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"
    limit: int = 0
    epochs: float = 0.0

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        if self.format and self.format not in FORMATS:
            raise ConfigError(one_of("data.records.format", self.format, FORMATS))
        if not self.train:
            raise ConfigError("data.records.train is empty; give globs such as ('reviews/*.jsonl',)")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"data.records.validation_fraction = {self.validation_fraction} must lie between 0 and 1"
            )
        for name in ("limit", "epochs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"data.records.{name} = {getattr(self, name)} must not be negative")
