"""Exact duplicates over a whole corpus, found by hashes of records in three steps that divide over workers.

Each task writes the hashes of its records, sorted into 256 buckets by their first byte; each group of buckets is then
searched on its own, and lists for every task the records that come again; and the tasks leave those out.
"""

import collections
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from tlx.base import place as places
from tlx.base.object_store import StoredObject
from tlx.data.corpus.job import SPLITS, CorpusJob, opened_tasks
from tlx.data.corpus.texts import TaskRecords
from tlx.data.filters import DIGEST_BYTES, digest, texts_of
from tlx.data.sources import Split

_BUCKETS = 256
_HASH = np.dtype([("digest", f"V{DIGEST_BYTES}"), ("record", np.uint32)])
_HEADER = np.dtype(np.uint64)  # of counts and of first entries
# Bytes of hashes that are searched at a time.
_GROUP_BYTES = 1 << 29


class HashList(NamedTuple):
    """The hashes of one split of a task."""

    split: Split
    """Split of the records."""
    task: int
    """Number of the task."""


def hash_lists(job: CorpusJob) -> list[HashList]:
    """Return all lists in the order in which the first of equal records is kept."""
    tasks = opened_tasks(job).tasks
    # Validation first: no record of it is trained on.
    return [
        HashList(split, number)
        for split in reversed(SPLITS)
        for number, task in enumerate(tasks)
        if split in task.splits
    ]


def write_hashes(job: CorpusJob, number: int) -> None:
    """Write the hashes of the records of task `number`."""
    records = TaskRecords(job, opened_tasks(job), number)
    digests: dict[Split, list[bytes]] = {split: [] for split in records.task.splits}
    for split, record in records.read():
        digests[split].append(digest(texts_of(record)))
    for split, found in digests.items():
        hashes = np.zeros(len(found), _HASH)
        hashes["digest"] = np.array(found, f"V{DIGEST_BYTES}")
        hashes["record"] = np.arange(len(found), dtype=np.uint32)
        buckets = np.frombuffer(b"".join(found), np.uint8)[::DIGEST_BYTES]
        # Stable: within a bucket the records stay in order.
        order = np.argsort(buckets, kind="stable")
        counts = np.bincount(buckets, minlength=_BUCKETS)
        begins = np.concatenate([[0], np.cumsum(counts)]).astype(_HEADER)
        places.write(_hash_path(job, HashList(split, number)), begins.tobytes() + hashes[order].tobytes())


def has_hashes(job: CorpusJob, number: int, names: Collection[str]) -> bool:
    """Return whether the hashes of a task are written.

    Args:
        job: The corpus.
        number: Number of the task.
        names: Names of the place's objects.

    Returns:
        Whether those of all of its splits are there.
    """
    return all(
        _hash_name(HashList(split, number)) in names for split in opened_tasks(job).tasks[number].splits
    )


def num_groups(files: Mapping[str, StoredObject]) -> int:
    """Return into how many groups of buckets hashes are divided, from the objects of the place by name."""
    total = sum(stored.size for name, stored in files.items() if name.startswith("duplicates/hashes-"))
    groups = 1
    while groups < _BUCKETS and total > groups * _GROUP_BYTES:
        groups *= 2
    return groups


def group_name(group: int, groups: int) -> str:
    """Return the name of the object that lists the duplicates of a group."""
    return f"duplicates/found-{group:03d}-of-{groups:03d}"


def find_duplicates(job: CorpusJob, groups: int, group: int) -> None:
    """Write the list of the records of a group of buckets that come again.

    Args:
        job: The corpus.
        groups: Number of groups.
        group: Index of the group.
    """
    lists = hash_lists(job)
    width = _BUCKETS // groups
    pieces = [_read_buckets(job, hashes, group * width, (group + 1) * width) for hashes in lists]
    sizes = [len(piece) for piece in pieces]
    joined = np.concatenate(pieces)
    owner = np.repeat(np.arange(len(lists)), sizes)
    halves = np.ascontiguousarray(joined["digest"]).view(np.uint64).reshape(-1, 2)
    # Stable, and `joined` is in the order of the lists: the first of equal hashes is the one that is kept.
    order = np.lexsort((halves[:, 0], halves[:, 1]))
    ordered = halves[order]
    again = order[1:][(ordered[1:] == ordered[:-1]).all(axis=1)]
    again = again[np.lexsort((joined["record"][again], owner[again]))]
    counts = np.bincount(owner[again], minlength=len(lists))
    begins = np.concatenate([[0], np.cumsum(counts)]).astype(_HEADER)
    data = begins.tobytes() + joined["record"][again].astype(np.uint32).tobytes()
    places.write(places.parse(job.place) / group_name(group, groups), data)


def duplicates_of(job: CorpusJob, number: int, groups: int) -> Callable[[Split, int], bool]:
    """Return the function (split, index of a record) that says whether it is a duplicate, for task `number`.

    Args:
        job: The corpus.
        number: Number of the task.
        groups: Number of groups that were searched; 0: duplicates are kept.

    Returns:
        The function.
    """
    found: dict[Split, set[int]] = collections.defaultdict(set)
    place = places.parse(job.place)
    for index, hashes in enumerate(hash_lists(job) if groups else []):
        if hashes.task != number:
            continue
        for group in range(groups):
            path = place / group_name(group, groups)
            header = places.read_range(path, index * _HEADER.itemsize, (index + 2) * _HEADER.itemsize)
            first, stop = map(int, np.frombuffer(header, _HEADER))
            begin = (len(hash_lists(job)) + 1) * _HEADER.itemsize
            records = places.read_range(path, begin + first * 4, begin + stop * 4)
            found[hashes.split].update(np.frombuffer(records, np.uint32).tolist())
    return lambda split, index: index in found[split]


def _read_buckets(job: CorpusJob, hashes: HashList, first: int, stop: int) -> np.ndarray:
    path = _hash_path(job, hashes)
    size = (_BUCKETS + 1) * _HEADER.itemsize
    begins = np.frombuffer(places.read_range(path, 0, size), _HEADER)
    start = int(begins[first]) * _HASH.itemsize
    end = int(begins[stop]) * _HASH.itemsize
    return np.frombuffer(places.read_range(path, size + start, size + end), _HASH)


def _hash_name(hashes: HashList) -> str:
    return f"duplicates/hashes-{hashes.task:06d}-{hashes.split}"


def _hash_path(job: CorpusJob, hashes: HashList) -> places.Place:
    return places.parse(job.place) / _hash_name(hashes)
