"""Data sets prepared by TensorFlow Datasets, read by index without TensorFlow."""

from collections.abc import Iterator
from typing import Any

from tlx.base.errors import DataError, one_of
from tlx.data.bad_records import BadRecord
from tlx.data.config import SourceConfig
from tlx.data.readers.tfds import import_tfds, tfds_name
from tlx.data.sources.source import Document, Split

_PART_RECORDS = 8192


class TfdsSource:
    """Documents of one split, stored as array_record or parquet (TFDS's `file_format`), in stored order."""

    def __init__(self, config: SourceConfig, split: Split):
        self._turns = config.tfds.turns_column
        self._columns = tuple(filter(None, (config.tfds.column, config.tfds.target_column)))
        if self._turns:
            self._columns = (self._turns,)
        self.parallel = len(self._columns) == 2
        self._split = config.tfds.validation_split if split == "validation" else config.tfds.train_split
        tfds = import_tfds("data.source = 'tfds'")
        title = f"tfds {config.tfds.name} [{self._split}]"
        try:
            name = tfds_name(config.tfds.name)
            self._records = tfds.data_source(name=name, data_dir=config.tfds.data_dir, split=self._split)
            builder = tfds.builder(name=name, data_dir=config.tfds.data_dir)
        except Exception as error:  # TFDS raises some twenty classes, most of them its own
            raise DataError(f"{title} cannot be opened: {error}") from error
        features = builder.info.features
        fields = ("turns_column",) if self._turns else ("column", "target_column")
        for field, column in zip(fields, self._columns, strict=False):
            if column not in features:
                raise DataError(f"{title}: " + one_of(f"data.tfds.{field}", column, features))
        self.name = title
        self.parts = [
            f"{start}:{min(start + _PART_RECORDS, len(self._records))}"
            for start in range(0, len(self._records), _PART_RECORDS)
        ]
        self.num_bytes = None
        info = builder.info.splits[self._split]
        self.part_sizes = [info.num_bytes // max(len(self.parts), 1)] * len(self.parts)
        if len(self._records) != info.num_examples:  # TFDS 4.9 ignores the slice where files are parquet
            raise DataError(
                f"{title} should have {info.num_examples} records but TFDS reads {len(self._records)}: it "
                "cannot slice this file format; prepare the data as array_record, or name whole splits"
            )
        self.identity = [
            builder.info.full_name,
            str(builder.data_path),
            [self._split, self._columns, len(self._records), info.num_bytes],
        ]
        if not self.parts:
            raise DataError(f"{title} has no records")

    def read(self, part: str) -> Iterator[Document | BadRecord]:
        """Yield the documents of the records `part` = "start:stop"."""
        for index in range(*map(int, part.split(":"))):
            name = f"{self.name} record {index}"
            try:
                record = self._records[index]
                if self._turns:
                    values = record[self._turns]
                else:
                    values = [record[column] for column in self._columns]
                texts = [_decoded(value) for value in values]
            except Exception as error:  # the readers of array_record raise their own classes
                yield BadRecord(f"{name} cannot be read: {error}")
                continue
            if not texts or not all(text.strip() for text in texts):
                yield BadRecord(f"{name} is empty", blank=True)
                continue
            if self._turns:
                yield Document(name, texts[0], tuple(texts[1:]))
            else:
                yield from (Document(name, text) for text in texts)


def _decoded(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
