"""Batches of a task's examples from labelled records: batch k is a function of (seed, k) here too."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from tlx.base.config import to_dict
from tlx.base.errors import DataError
from tlx.base.files import cache_folder, sha256_json
from tlx.data.batches import Batch, Batches
from tlx.data.build_once import build_once
from tlx.data.config import DataConfig
from tlx.data.order import Permutation, SourceMixture, epoch_permutation, hash64, row_generator
from tlx.data.packing import pack
from tlx.data.readers import Record, RecordFiles, RecordsConfig, read_files
from tlx.data.sources.source import held_out
from tlx.text import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer

RecordSplit = Literal["train", "validation", "test"]


class RecordTask(Protocol):
    """What batches of records need of a task (tlx/tasks/shared/base.py, which stands above this package)."""

    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: Any, labelled: bool = True
    ) -> list[Any]:
        """Make items of records; each has the index of its record as `record`."""
        ...

    def empty_item(self, spec: Any) -> Any:
        """Return an item of no record."""
        ...

    def example(self, rng: np.random.Generator, item: Any, spec: Any) -> Batch:
        """Make one row of a batch."""
        ...

    def packs(self, config: Any) -> bool:
        """Return whether a row of training holds several items."""
        ...

    def example_size(self, item: Any, spec: Any) -> int:
        """Return how many tokens of a row an item takes."""
        ...

    def join(self, items: Sequence[Any]) -> Any:
        """Return one item of several."""
        ...


def read_records(config: RecordsConfig, part: RecordSplit, seed: int) -> list[Record]:
    """The records of a part, in the files' order, set by set. DataError where there are none.

    Of the training records `limit` are chosen by the seed. What is held out for validation depends on the
    records' places alone, or on their values of `group`.
    """
    config.validate()
    if not config.sets:
        return _read_part(config, part, seed, "data.records")
    found: list[Record] = []
    for i, one in enumerate(config.sets):
        if part != "test" or one.test:
            records = _read_part(one, part, seed, f"data.records.sets[{i}]")
            found += [record._replace(set=one.name) for record in records]
    if not found:
        raise DataError("no set of data.records.sets has test files")
    return found


def _read_part(config: RecordFiles, part: RecordSplit, seed: int, field: str) -> list[Record]:
    own = getattr(config, part)
    if part == "validation" and not own:
        return _held_out(config, True, field)
    if not own:
        raise DataError(f"{field}.{part} is empty; give globs such as ('reviews/{part}*.jsonl',)")
    if part != "train":
        return read_files(own, config, f"{field}.{part}")
    known = config.validation
    records = read_files(own, config, f"{field}.train") if known else _held_out(config, False, field)
    if not config.limit or config.limit >= len(records):
        return records
    order = Permutation(len(records), hash64("limit", seed))
    return [records[index] for index in sorted(order(i) for i in range(config.limit))]


def _held_out(config: RecordFiles, wanted: bool, field: str) -> list[Record]:
    records = read_files(config.train, config, f"{field}.train")
    share = config.validation_fraction
    kept = [record for record in records if held_out(_held_by(record, config, field), share) == wanted]
    if not kept:
        raise DataError(
            f"{field}.train has {len(records)} records, and a share of {share} held out for validation "
            f"leaves {'none for it' if wanted else 'none to train on'}; give {field}.validation"
        )
    return kept


def _held_by(record: Record, config: RecordFiles, field: str) -> str:
    if config.group_column:
        return record.joined(config.group_column, f"{field}.group")
    return record.where.rsplit("/", 1)[-1]


def build_records(
    data: DataConfig,
    tokenizer: Tokenizer,
    task: RecordTask,
    spec: Any,
    *,
    batch_size: int,
    seed: int,
    part: RecordSplit = "train",
) -> "RecordPipeline":
    """Reads and tokenises a part's records. DataError naming the record that does not fit."""
    records = read_records(data.records, part, seed)
    items = task.prepare(records, tokenizer, spec)
    if part == "train" and task.packs(spec.config):
        items = _packed(items, records, task, spec)
    return RecordPipeline(data, records, items, task, spec, batch_size, seed, part)


def prepare_records_tokenizer(
    config: TokenizerConfig, data: DataConfig, columns: Sequence[tuple[str, str]]
) -> Tokenizer:
    """The run's tokenizer; where one has to be trained, on the columns (name, the config's field) of all
    training records, and only once."""
    if config.path is not None or config.kind == "bytes":
        return make_tokenizer(config, ())
    records = read_records(dataclasses.replace(data.records, limit=0), "train", 0)
    texts = [
        record.joined(name, field)
        for record in records
        for name, field in columns
        if not record.set or name in record.values  # each set has columns of its own
    ]
    key = sha256_json([to_dict(config), texts])
    return build_once(
        cache_folder() / "tokenizers" / key[:32],
        lambda folder: make_tokenizer(config, texts).save(folder),
        load_tokenizer,
    )


class RecordPipeline(Batches):
    """Rows of items. An epoch of training takes each once, in a new order; `records` are what they are of.

    Where records are of several sets, each set has its share of the rows, and epochs of its own.
    """

    def __init__(
        self,
        data: DataConfig,
        records: Sequence[Record],
        items: Sequence[Any],
        task: RecordTask,
        spec: Any,
        batch_size: int,
        seed: int,
        part: str,
    ):
        self.batch_size, self.records, self.items = batch_size, records, items
        self.num_windows = len(items)
        self._example, self._blank, self._spec = task.example, task.empty_item(spec), spec
        self._seed, self._part = seed, part
        self._shuffle, self._workers = data.shuffle, data.workers
        self._sets = _by_set(items, records)
        weights = _weights([len(numbers) for numbers in self._sets], data.records)
        self._mixture = SourceMixture(weights)
        digest = hashlib.sha256()
        self.num_tokens = 0
        for array in _arrays(items):
            digest.update(array.tobytes())
            self.num_tokens += array.size
        for record in records:
            digest.update(repr(record.values).encode())
        if len(self._sets) > 1:
            digest.update(repr([weights, [record.set for record in records]]).encode())
        self.fingerprint = digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Without records and tokenizer: data workers make examples of items alone."""
        return self.__dict__ | {"records": (), "_spec": dataclasses.replace(self._spec, tokenizer=None)}

    def _row(self, k: int, b: int, in_order: bool = False) -> Batch:
        row = k * self.batch_size + b
        stream = f"{self._part} in order" if in_order else self._part
        rng = row_generator(self._seed, stream, row)
        if in_order and row >= self.num_windows:
            example = self._example(rng, self._blank, self._spec)
            return example | {"weights": np.zeros_like(example["weights"])}
        if in_order:
            return self._example(rng, self.items[row], self._spec)
        source, count = self._mixture.source(row)
        numbers = self._sets[source]
        epoch, index = divmod(count, len(numbers))
        if self._shuffle:
            index = epoch_permutation(self._seed, source, epoch, len(numbers))(index)
        return self._example(rng, self.items[numbers[index]], self._spec)


def _packed(items: Sequence[Any], records: Sequence[Record], task: RecordTask, spec: Any) -> list[Any]:
    """The items, as many in one as fit a row, set by set; which of equal sizes meet has nothing to do with
    their order in the files."""
    joined = []
    for numbers in _by_set(items, records):
        sizes = [(int(number), task.example_size(items[number], spec)) for number in numbers]
        order = sorted((pair for pair in sizes if pair[1]), key=_by_size)
        joined += [task.join([items[number] for number, _ in row]) for row in pack(order, spec.length)]
    return joined


def _by_size(pair: tuple[int, int]) -> tuple[int, int]:
    number, size = pair
    return -size, hash64("pack", number)


def _by_set(items: Sequence[Any], records: Sequence[Record]) -> list[np.ndarray]:
    """Numbers of the items of each set, sets in the order in which they come."""
    found: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        found.setdefault(records[item.record].set, []).append(number)
    return [np.array(numbers) for numbers in found.values()]


def _weights(sizes: Sequence[int], config: RecordsConfig) -> list[float]:
    return [min(size, config.max_set_size or size) ** (1 / config.temperature) for size in sizes]


def _arrays(values: Any) -> Iterator[np.ndarray]:
    """All integer arrays inside nested tuples and lists: the ids of items."""
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _arrays(value)
