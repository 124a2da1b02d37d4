"""The work of preparing a corpus: its tasks, which are pure functions of the config and their number."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tlx.base.config import to_dict
from tlx.base.files import sha256_json
from tlx.data.config import DataConfig, SourceConfig
from tlx.data.sources import Source, Split, open_source
from tlx.text import Tokenizer, TokenizerConfig

FORMAT = 1
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class CorpusJob:
    """A corpus to prepare. Picklable: engines send it to their workers."""

    place: str
    """Folder or bucket of the corpus."""
    data: DataConfig
    """Config of the sources, filters and bad records."""
    tokenizer: TokenizerConfig
    """Config that the tokenizer was made with; training is refused with another one."""
    key: str = ""
    """Hash of all that the bytes of the corpus depend on; a place holds the work of one key."""
    task_bytes: int = 64 << 20
    """Bytes of files that are a task: files are put together up to this size, and none is cut."""
    shard_tokens: int = 1 << 26
    """Tokens after which a task begins another shard; it bounds the memory of a worker."""
    threads: int = 1
    """Threads that encode in a worker."""


class TextTask(NamedTuple):
    """A shard of text: consecutive parts of a source, of one split, or of both where those share their parts."""

    source: int
    """Index of the source."""
    splits: tuple[Split, ...]
    """Splits that its documents are of."""
    parts: tuple[str, ...]
    """Parts of the source (files, or ranges of records), in order."""


class TextTasks(NamedTuple):
    """The sources of a job, opened, and its tasks."""

    sources: tuple[dict[Split, Source], ...]
    """The two splits of each source."""
    tasks: tuple[TextTask, ...]
    """All tasks in order: the documents of a split are those of its tasks, one after the other."""


def plan_tasks(data: DataConfig, task_bytes: int) -> TextTasks:
    """Divide the text of a config into tasks.

    Args:
        data: Config of the sources.
        task_bytes: Bytes of files up to which parts are put together.

    Returns:
        The opened sources and the tasks.

    Raises:
        DataError: A source cannot be opened.
    """
    sources: tuple[dict[Split, Source], ...] = tuple(
        {split: open_source(source, split) for split in SPLITS} for source in data.sources
    )
    tasks = []
    for index, opened in enumerate(sources):
        if getattr(opened["train"], "shares_parts", False):
            groups: list[tuple[tuple[Split, ...], Source]] = [(SPLITS, opened["train"])]
        else:
            groups = [((split,), opened[split]) for split in SPLITS]
        for splits, source in groups:
            tasks += [TextTask(index, splits, parts) for parts in _groups(source, task_bytes)]
    return TextTasks(sources, tuple(tasks))


def job_key(job: CorpusJob, planned: TextTasks, tokenizer: Tokenizer) -> str:
    """Return the hash of all that the bytes of a corpus depend on.

    Args:
        job: The corpus, with or without its key.
        planned: Its tasks.
        tokenizer: Its tokenizer.

    Returns:
        The key.
    """
    identities = [[opened[split].identity for split in SPLITS] for opened in planned.sources]
    sizes = [job.task_bytes, job.shard_tokens]
    return sha256_json([FORMAT, description(job.data), identities, tokenizer.hash, sizes])


def description(data: DataConfig) -> dict[str, Any]:
    """Return the part of a data config that the tokens of a corpus depend on, as JSON."""
    return {
        "sources": [
            {field.name: to_dict(getattr(source, field.name)) for field in dataclasses.fields(SourceConfig)}
            for source in data.sources
        ],
        "add_eos": data.add_eos,
        "on_bad_record": data.on_bad_record,
        "filter": to_dict(data.filter),
    }


def opened_tasks(job: CorpusJob) -> TextTasks:
    """Return the tasks of a job; opened once in a process."""
    return _opened(job.data, job.task_bytes, job.key)


@functools.lru_cache(maxsize=2)
def _opened(data: DataConfig, task_bytes: int, key: str) -> TextTasks:
    del key  # the same config may stand for other files in another job
    return plan_tasks(data, task_bytes)


def _groups(source: Source, task_bytes: int) -> Iterator[tuple[str, ...]]:
    """Yield consecutive parts that have up to `task_bytes` together."""
    sizes: Sequence[int] = getattr(source, "part_sizes", None) or [task_bytes] * len(source.parts)
    group: list[str] = []
    total = 0
    for part, size in zip(source.parts, sizes, strict=True):
        if group and total + size > task_bytes:
            yield tuple(group)
            group = []
            total = 0
        group.append(part)
        total += size
    if group:
        yield tuple(group)
