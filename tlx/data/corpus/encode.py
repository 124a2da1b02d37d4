"""From a shard of text to sealed shards of tokens: a pure function, the same bytes wherever it runs."""

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

from tlx.base import place as places
from tlx.base.errors import DataError
from tlx.data import tokenize
from tlx.data.corpus.duplicates import duplicates_of
from tlx.data.corpus.job import CorpusJob, opened_tasks
from tlx.data.corpus.shard import encode_shard
from tlx.data.corpus.texts import TaskRecords, chunks
from tlx.data.sources import Split
from tlx.data.tokenize import Encoded, encode_chunk, ordered_map
from tlx.text import Tokenizer


def seal_name(number: int) -> str:
    """Return the name of the object that is written when a task is done, and says what it made."""
    return f"tasks/{number:06d}.json"


def shard_name(number: int, split: Split, index: int) -> str:
    """Return the name of a shard.

    Args:
        number: Number of the task.
        split: Split of its documents.
        index: Index among the shards of the task and split.

    Returns:
        The name, relative to the corpus's place.
    """
    return f"tokens/{number:06d}-{split}-{index:03d}"


class ShardWriter:
    """Collects the encoded documents of one split of a task, and writes a shard whenever there are enough."""

    def __init__(self, job: CorpusJob, number: int, split: Split):
        self._job = job
        self._number = number
        self._split: Split = split
        self._chunks: list[Encoded] = []
        self._num_tokens = 0
        self._num_bytes = 0
        self._max_token = 0
        self._shards: list[dict[str, Any]] = []

    def add(self, encoded: Encoded) -> None:
        """Add the documents of a chunk."""
        self._chunks.append(encoded)
        self._num_tokens += len(encoded.tokens)
        self._num_bytes += encoded.num_bytes
        self._max_token = max(self._max_token, int(encoded.tokens.max()))
        if self._num_tokens >= self._job.shard_tokens:
            self._flush()

    def finish(self) -> dict[str, Any]:
        """Write the last shard, and return what there is of the split as JSON."""
        if self._chunks:
            self._flush()
        return {"num_bytes": self._num_bytes, "max_token": self._max_token, "shards": self._shards}

    def _flush(self) -> None:
        counts, data = encode_shard(self._chunks)
        name = shard_name(self._number, self._split, len(self._shards))
        places.write(places.parse(self._job.place) / name, data)
        sum_of_bytes = hashlib.sha256(data).hexdigest()
        self._shards.append({"name": name, **counts._asdict(), "sha256": sum_of_bytes})
        self._chunks = []
        self._num_tokens = 0


def encode_task(
    job: CorpusJob, tokenizer_of: Callable[[CorpusJob], Tokenizer], groups: int, number: int
) -> None:
    """Write the shards of task `number` and its seal. What was written before by the same task is equal.

    Args:
        job: The corpus.
        tokenizer_of: Returns the tokenizer of a job.
        groups: Number of groups in which duplicates were searched; 0: they are kept.
        number: Number of the task.

    Raises:
        DataError: A document cannot be used and is not to be skipped.
    """
    tokenizer = tokenizer_of(job)
    records = TaskRecords(job, opened_tasks(job), number)
    writers = {split: ShardWriter(job, number, split) for split in records.task.splits}
    encode = functools.partial(
        encode_chunk, tokenizer=tokenizer, add_eos=job.data.add_eos, parallel=records.parallel
    )
    distinct = records.distinct(duplicates_of(job, number, groups))
    grouped = chunks(distinct, tokenize.CHUNK)
    for split, encoded in ordered_map(lambda pair: (pair[0], encode(pair[1])), grouped, job.threads):
        for bad in encoded.bad:
            records.skipped[split].add(bad)
        if len(encoded.tokens):
            writers[split].add(encoded)
    content = {
        "key": job.key,
        "source": records.task.source,
        "splits": {
            split: writer.finish()
            | {
                "filtered": dict(sorted(records.filters[split].counts.items())),
                "skipped": records.skipped[split].to_json(),
            }
            for split, writer in writers.items()
        },
    }
    # Last: a task is done where its seal is.
    places.write(places.parse(job.place) / seal_name(number), json.dumps(content, indent=1).encode())


def read_seal(job: CorpusJob, number: int) -> dict[str, Any]:
    """Read the seal of a task. Raises DataError where it is damaged or of another corpus."""
    path = places.parse(job.place) / seal_name(number)
    try:
        content = json.loads(places.read_range(path))
        key = content["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error!r}; delete it to make its shards again") from error
    if key != job.key:
        raise DataError(f"{path} belongs to another corpus; prepare this one in another place")
    return content
