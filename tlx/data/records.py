"""Batches of a task's examples from labelled records: batch k is a pure function of (seed, k)."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from tlx.base.config import to_dict
from tlx.base.errors import DataError
from tlx.base.files import cache_folder, sha256_json
from tlx.data.bad_records import DEFAULT_POLICY, BadRecord, BadRecordPolicy, SkippedRecords
from tlx.data.batches import Batch, Batches
from tlx.data.build_once import build_once
from tlx.data.config import DataConfig
from tlx.data.order import Permutation, SourceMixture, epoch_permutation, hash64, row_generator
from tlx.data.packing import pack
from tlx.data.readers import Record, RecordFiles, RecordsConfig, read_files, valid_text
from tlx.data.sources.source import held_out
from tlx.text import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer

RecordSplit = Literal["train", "validation", "test"]

# Raises DataError for a record that cannot be used.
RecordCheck = Callable[[Record], object]


class RecordTask(Protocol):
    """The part of a task that batches of records use (tlx/tasks/shared/base.py, on a floor above)."""

    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: Any, labelled: bool = True
    ) -> list[Any]:
        """Tokenize records to items.

        Args:
            records: The records.
            tokenizer: Tokenizer of the run.
            spec: Spec of the task.
            labelled: Whether the records have targets.

        Returns:
            Items; each has the index of its record as `record`.
        """
        ...

    def check_record(self, config: Any, record: Record) -> None:
        """Raise DataError for a training or evaluation record that cannot be used."""
        ...

    def empty_item(self, spec: Any) -> Any:
        """Return an item without a record, for padding rows."""
        ...

    def example(self, rng: np.random.Generator, item: Any, spec: Any) -> Batch:
        """Make one row of a batch.

        Args:
            rng: Random numbers of the row.
            item: An item of `prepare` or `join`.
            spec: Spec of the task.

        Returns:
            Arrays of the row by name.
        """
        ...

    def packs(self, config: Any) -> bool:
        """Return whether several items are packed into a training row."""
        ...

    def example_size(self, item: Any, spec: Any) -> int:
        """Return the number of tokens that an item takes in a row."""
        ...

    def join(self, items: Sequence[Any]) -> Any:
        """Join several items to one."""
        ...


def read_records(
    config: RecordsConfig,
    part: RecordSplit,
    seed: int,
    policy: BadRecordPolicy = DEFAULT_POLICY,
    check: RecordCheck | None = None,
) -> list[Record]:
    """Read the records of a split, in the order of the files, set by set.

    Records held out for validation depend only on their locations, or on their values in `group_column`.

    Args:
        config: Files, or sets of files.
        part: The split.
        seed: Selects the `limit` training records.
        policy: Treatment of records that cannot be used.
        check: Raises DataError for a record that the task cannot use; None checks none. Not called where
            records are kept as they are.

    Returns:
        The records; their `set` names the set they belong to.

    Raises:
        ConfigError: The config is not valid.
        DataError: There is no record, a file cannot be read, or a record cannot be used.
    """
    config.validate()
    if policy.action == "keep":
        check = None
    if not config.sets:
        return _read_part(config, part, seed, "data.records", policy, check)
    records: list[Record] = []
    for i, record_set in enumerate(config.sets):
        if part != "test" or record_set.test:
            field = f"data.records.sets[{i}]"
            records += _read_part(record_set, part, seed, field, policy, check, record_set.name)
    if not records:
        raise DataError("no set of data.records.sets has test files")
    return records


def _read_part(
    config: RecordFiles,
    part: RecordSplit,
    seed: int,
    field: str,
    policy: BadRecordPolicy,
    check: RecordCheck | None,
    set_name: str = "",
) -> list[Record]:
    """Records of one set of files; `field` is the config key of the set."""
    held_out_part = part == "validation" and not config.validation
    split = "train" if held_out_part else part
    globs = getattr(config, split)
    if not globs:
        raise DataError(f"{field}.{part} is empty; give globs such as ('reviews/{part}*.jsonl',)")
    records = read_files(globs, config, f"{field}.{split}", policy)
    if set_name:
        records = [record._replace(set=set_name) for record in records]
    if split == "train" and not config.validation:
        records = _held_out(records, config, held_out_part, field)
    limit = config.limit if part == "train" else 0
    if policy.action == "skip":
        return _sampled(_checked(records, f"{field}.{part}", policy, check), limit, seed)
    # Where a bad record is an error, one that is not in the sample is none.
    return _checked(_sampled(records, limit, seed), f"{field}.{part}", policy, check)


def _sampled(records: list[Record], limit: int, seed: int) -> list[Record]:
    """`limit` of the records, in their order; all of them for 0."""
    if not limit or limit >= len(records):
        return records
    # A sample and not the first ones: files are often sorted by label. A larger limit adds to it.
    order = Permutation(len(records), hash64("limit", seed))
    return [records[index] for index in sorted(order(i) for i in range(limit))]


def _checked(
    records: list[Record], name: str, policy: BadRecordPolicy, check: RecordCheck | None
) -> list[Record]:
    """Records that pass the check; the others are skipped or an error."""
    if check is None:
        return records
    skipped = SkippedRecords(name, policy)
    usable = []
    for record in records:
        try:
            check(record)
        except DataError as error:
            skipped.add(BadRecord(str(error)))
        else:
            usable.append(record)
    skipped.report()
    if not usable:
        raise DataError(f"{name}: none of its {len(records)} records can be used: {skipped.examples[0]}")
    return usable


def _held_out(records: list[Record], config: RecordFiles, validation: bool, field: str) -> list[Record]:
    """Training records that are held out for validation, or those that are not."""
    fraction = config.validation_fraction
    selected = [
        record for record in records if held_out(_hash_key(record, config, field), fraction) == validation
    ]
    if not selected:
        raise DataError(
            f"{field}.train has {len(records)} records, and a fraction of {fraction} held out for validation "
            f"leaves {'none for it' if validation else 'none to train on'}; give {field}.validation"
        )
    return selected


def _hash_key(record: Record, config: RecordFiles, field: str) -> str:
    """Text whose hash decides whether a record is held out."""
    if config.group_column:
        # Records of one group (paraphrases, a dialogue) stay on one side, else validation would repeat
        # training.
        return record.joined(config.group_column, f"{field}.group_column")
    # The file's name and the line, not its folder: moved data keeps its split.
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
    """Read and tokenize the records of a split.

    Args:
        data: Config of the records.
        tokenizer: Tokenizer of the run.
        task: Makes items and rows.
        spec: Spec of the task.
        batch_size: Rows of a global batch.
        seed: Seed of the order and of all random numbers.
        part: The split.

    Returns:
        The pipeline.

    Raises:
        ConfigError: The config is not valid.
        DataError: A record (which is named) is not usable, or there is none.
    """
    check = functools.partial(task.check_record, spec.config)
    records = read_records(data.records, part, seed, data.bad_records, check)
    records, items = _prepared(records, tokenizer, task, spec, f"data.records.{part}", data.bad_records)
    if part == "train" and task.packs(spec.config):
        items = _packed(items, records, task, spec)
    return RecordPipeline(data, records, items, task, spec, batch_size, seed, part)


def _prepared(
    records: list[Record],
    tokenizer: Tokenizer,
    task: RecordTask,
    spec: Any,
    name: str,
    policy: BadRecordPolicy,
) -> tuple[list[Record], list[Any]]:
    """Records with their items, without those of which the task can make none, where these are skipped."""
    try:
        return records, task.prepare(records, tokenizer, spec)
    except UnicodeEncodeError as error:
        # Records that are kept as they are were not checked.
        raise DataError(
            f"{name}: a text is not valid Unicode ({error.reason}: {error.object[error.start]!r}); "
            "data.on_bad_record = 'error' names it, 'skip' leaves it out"
        ) from error
    except DataError:
        if policy.action != "skip":
            raise

    def check(record: Record) -> None:
        task.prepare([record], tokenizer, spec)

    records = _checked(records, name, policy, check)
    return records, task.prepare(records, tokenizer, spec)


def prepare_records_tokenizer(
    config: TokenizerConfig, data: DataConfig, columns: Sequence[tuple[str, str]]
) -> Tokenizer:
    """Load or build the tokenizer; a vocabulary is trained once, on columns of all training records.

    Args:
        config: Config of the tokenizer.
        data: Config of the records.
        columns: Pairs (column, config key that names it) of the texts to train on.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: A config is not valid.
        DataError: The records cannot be read or have no such column.
    """
    if config.path is not None or config.kind == "bytes":
        return make_tokenizer(config, ())
    # All of them, whatever the limit: learning curves over the number of labels share one vocabulary.
    unlimited = dataclasses.replace(data.records, limit=0)

    def texts_of(record: Record) -> list[str]:
        # Sets may have different columns.
        present = [(name, field) for name, field in columns if not record.set or name in record.values]
        return [valid_text(record, record.joined(name, field)) for name, field in present]

    check = texts_of if data.on_bad_record == "skip" else None
    records = read_records(unlimited, "train", 0, data.bad_records, check)
    texts = [text for record in records for text in texts_of(record)]
    key = sha256_json([to_dict(config), texts])
    return build_once(
        cache_folder() / "tokenizers" / key[:32],
        lambda folder: make_tokenizer(config, texts).save(folder),
        load_tokenizer,
    )


class RecordPipeline(Batches):
    """Rows of items; a training epoch reads each once, in a new order.

    With several sets of records, each set has its fraction of the rows and its own epochs.
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
        self.batch_size = batch_size
        self.records = records
        self.items = items
        self.num_windows = len(items)
        self._example = task.example
        self._empty_item = task.empty_item(spec)
        self._spec = spec
        self._seed = seed
        self._part = part
        self._shuffle = data.shuffle
        self._workers = data.workers
        self._sets = _by_set(items, records)
        weights = _weights([len(indices) for indices in self._sets], data.records)
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
        """Leave out records and tokenizer: data workers need only the items."""
        return self.__dict__ | {"records": (), "_spec": dataclasses.replace(self._spec, tokenizer=None)}

    def _row(self, k: int, b: int, in_order: bool = False) -> Batch:
        row = k * self.batch_size + b
        stream = f"{self._part} in order" if in_order else self._part
        rng = row_generator(self._seed, stream, row)
        if in_order and row >= self.num_windows:
            # A batch has one shape; weights of 0 keep the filling rows out of every figure.
            example = self._example(rng, self._empty_item, self._spec)
            return example | {"weights": np.zeros_like(example["weights"])}
        return self._example(rng, self.items[self.item_index(row, in_order)], self._spec)

    def item_index(self, row: int, in_order: bool = False) -> int:
        """Return the index of the item of a row, counted over all batches."""
        if in_order:
            return row
        source, count = self._mixture.source(row)
        indices = self._sets[source]
        epoch, index = divmod(count, len(indices))
        if self._shuffle:
            index = epoch_permutation(self._seed, source, epoch, len(indices))(index)
        return int(indices[index])


def _packed(items: Sequence[Any], records: Sequence[Record], task: RecordTask, spec: Any) -> list[Any]:
    """Pack items to rows, set by set; items of equal size are combined independently of their file order."""
    rows: list[Any] = []
    for indices in _by_set(items, records):
        sizes = [(int(index), task.example_size(items[index], spec)) for index in indices]
        order = sorted((pair for pair in sizes if pair[1]), key=_largest_first)
        rows += [task.join([items[index] for index, _ in row]) for row in pack(order, spec.length)]
    return rows


def _largest_first(pair: tuple[int, int]) -> tuple[int, int]:
    """Sort key of (index, size): by size, then by a hash of the index."""
    index, size = pair
    # By a hash: files sorted by label would fill rows with one class.
    return -size, hash64("pack", index)


def _by_set(items: Sequence[Any], records: Sequence[Record]) -> list[np.ndarray]:
    """Indices of the items of each set, sets in order of first appearance."""
    indices: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        indices.setdefault(records[item.record].set, []).append(index)
    return [np.array(of_set) for of_set in indices.values()]


def _weights(sizes: Sequence[int], config: RecordsConfig) -> list[float]:
    """Sampling weight of each set, for its number of items."""
    # Raffel et al. 2020, section 3.5.2: examples-proportional mixing with a limit and a temperature.
    return [min(size, config.max_set_size or size) ** (1 / config.temperature) for size in sizes]


def _arrays(values: Any) -> Iterator[np.ndarray]:
    """Yield all integer arrays inside nested tuples and lists: the token ids of items."""
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _arrays(value)
