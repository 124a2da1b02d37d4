"""The records of a task that are encoded: usable, not filtered out, no duplicates."""

import collections
from collections.abc import Callable, Iterable, Iterator

from tlx.base.errors import DataError
from tlx.data.bad_records import BadRecord, SkippedRecords
from tlx.data.corpus.job import CorpusJob, TextTasks
from tlx.data.filters import DUPLICATE, RecordFilter
from tlx.data.sources import Document, Split

Record = tuple[Document, ...]  # a text or a conversation, or the two texts of a pair


class TaskRecords:
    """The records of one task in one pass, and the counts of what is left out of each split."""

    def __init__(self, job: CorpusJob, planned: TextTasks, number: int):
        """Prepare to read task `number`."""
        self.task = planned.tasks[number]
        self._sources = planned.sources[self.task.source]
        self.parallel = self._sources[self.task.splits[0]].parallel
        policy = job.data.bad_records
        self.skipped = {
            split: SkippedRecords(self._sources[split].name, policy) for split in self.task.splits
        }
        self.filters = {split: RecordFilter(job.data.filter) for split in self.task.splits}

    def read(self) -> Iterator[tuple[Split, Record]]:
        """Yield pairs (split, record) of what the filters of single records keep."""
        halves: dict[Split, list[Document]] = {split: [] for split in self.task.splits}
        for split, entry in self._entries():
            if isinstance(entry, BadRecord):
                self.skipped[split].add(entry)
                continue
            halves[split].append(entry)
            if len(halves[split]) <= self.parallel:
                continue
            record = tuple(halves[split])
            halves[split] = []
            if self.filters[split].keeps(record):
                yield split, record
        if any(halves.values()):
            raise DataError(f"{self._sources[self.task.splits[0]].name}: a text of a pair has no partner")

    def distinct(self, is_duplicate: Callable[[Split, int], bool]) -> Iterator[tuple[Split, Record]]:
        """Yield what `read` yields, without duplicates, which are counted.

        Args:
            is_duplicate: Function (split, index among the records of the task's split that `read` yields).

        Yields:
            Pairs (split, record).
        """
        seen: collections.Counter[Split] = collections.Counter()
        for split, record in self.read():
            index = seen[split]
            seen[split] += 1
            if is_duplicate(split, index):
                self.filters[split].counts[DUPLICATE] += 1
            else:
                yield split, record

    def _entries(self) -> Iterator[tuple[Split, Document | BadRecord]]:
        split = self.task.splits[0]
        source = self._sources[split]
        read_splits = getattr(source, "read_splits", None)
        for part in self.task.parts:
            if len(self.task.splits) > 1 and read_splits is not None:
                yield from read_splits(part)
            else:
                for entry in source.read(part):
                    yield split, entry


def chunks(
    records: Iterable[tuple[Split, Record]], characters: int
) -> Iterator[tuple[Split, list[Document]]]:
    """Group the documents of each split to chunks of about so many characters.

    Args:
        records: Pairs (split, record).
        characters: Characters of a chunk.

    Yields:
        Pairs (split, documents); a record is in one chunk.
    """
    waiting: dict[Split, list[Document]] = {}
    sizes: collections.Counter[Split] = collections.Counter()
    for split, record in records:
        waiting.setdefault(split, []).extend(record)
        sizes[split] += sum(len(text) for document in record for text in document.texts)
        if sizes[split] >= characters:
            yield split, waiting.pop(split)
            sizes[split] = 0
    for split in sorted(waiting):
        yield split, waiting[split]
