"""The index of a prepared corpus: all of it that is kept in memory, some 100 bytes for each shard on disk."""

import collections
import concurrent.futures
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.base import place as places
from tlx.base.config import to_dict
from tlx.base.errors import DataError
from tlx.base.files import sha256_json
from tlx.data.bad_records import SkippedRecords
from tlx.data.cache import token_dtype
from tlx.data.corpus.encode import read_seal
from tlx.data.corpus.job import FORMAT, SPLITS, CorpusJob, description, opened_tasks
from tlx.data.corpus.shard import STORED, ShardCounts, shard_layouts
from tlx.data.sources import Split
from tlx.text import Tokenizer

INDEX = "corpus.json"

# Bytes of tokens of a split up to which its fingerprint is the one that a token cache of the same text has, for
# which all of them are read. A run can then go on from the cache to the corpus.
CACHE_FINGERPRINT_BYTES = 64 << 30
_READ = 1 << 24  # bytes
_THREADS = 16


class ShardTable(NamedTuple):
    """The shards of a split, in the order of its documents."""

    names: Sequence[str]
    """Names of the objects."""
    documents: np.ndarray
    """int64 [shards], documents of each."""
    tokens: np.ndarray
    """int64 [shards], tokens of each."""
    replies: np.ndarray
    """int64 [shards], turns of each."""
    sha256: Sequence[str]
    """Checksum of each object."""


def write_index(job: CorpusJob, tokenizer: Tokenizer) -> dict[str, Any]:
    """Write the index of a corpus whose tasks are all done, and return it.

    Args:
        job: The corpus.
        tokenizer: Its tokenizer.

    Returns:
        The content of the index.

    Raises:
        DataError: A split has no documents, too many records were skipped, or a seal cannot be read.
    """
    planned = opened_tasks(job)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        seals = list(pool.map(lambda number: read_seal(job, number), range(len(planned.tasks))))
    content = {
        "format": FORMAT,
        "key": job.key,
        "tokenizer": {
            "hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab.size,
            "config": to_dict(job.tokenizer),
        },
        "data": description(job.data),
        "sources": [
            {
                split: _split_entry(job, opened[split], index, split, seals, tokenizer.vocab.size)
                for split in SPLITS
            }
            for index, opened in enumerate(planned.sources)
        ],
    }
    places.write(places.parse(job.place) / INDEX, json.dumps(content).encode())
    return content


def read_index(place: str) -> dict[str, Any]:
    """Read the index of a corpus. Raises DataError where there is none, or it is damaged or of a newer version."""
    path = places.parse(place) / INDEX
    try:
        content = json.loads(places.read_range(path))
    except FileNotFoundError as error:
        raise DataError(
            f"data.tokens = {place!r} has no {INDEX}: it is no prepared corpus, or one that is not complete; run "
            f"tlx data prepare --to={place} with this config"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        version = content.get("format") if isinstance(content, dict) else None
        raise DataError(f"{path} has format {version!r}; this version reads {FORMAT}")
    return content


def shard_table(entry: Mapping[str, Any]) -> ShardTable:
    """Return the shards of a split's entry in an index."""
    shards = entry["shards"]
    return ShardTable(
        names=shards["names"],
        documents=np.array(shards["documents"], np.int64),
        tokens=np.array(shards["tokens"], np.int64),
        replies=np.array(shards["replies"], np.int64),
        sha256=shards["sha256"],
    )


def _split_entry(
    job: CorpusJob,
    source: Any,
    index: int,
    split: Split,
    seals: Sequence[Mapping[str, Any]],
    vocab_size: int,
) -> dict[str, Any]:
    """Return the entry of one split of a source, from the seals of all tasks."""
    parts = [seal["splits"][split] for seal in seals if seal["source"] == index and split in seal["splits"]]
    skipped = SkippedRecords(source.name, job.data.bad_records)
    filtered: collections.Counter[str] = collections.Counter()
    for part in parts:
        counts = part["skipped"]
        skipped.num_bad += counts.get("num_bad", 0)
        skipped.num_blank += counts.get("num_blank", 0)
        skipped.examples = (skipped.examples + counts.get("examples", []))[:3]
        filtered.update(part["filtered"])
    skipped.check_limit()
    shards = [shard for part in parts for shard in part["shards"]]
    if not shards:
        left_out = f" ({sum(filtered.values()):,} were filtered out)" if filtered else ""
        raise DataError(f"{source.name} has no documents{left_out}{getattr(source, 'remedy', '')}")
    table = ShardTable(
        names=[shard["name"] for shard in shards],
        documents=np.array([shard["documents"] for shard in shards], np.int64),
        tokens=np.array([shard["tokens"] for shard in shards], np.int64),
        replies=np.array([shard["replies"] for shard in shards], np.int64),
        sha256=[shard["sha256"] for shard in shards],
    )
    return {
        "source": source.name,
        "parallel": source.parallel,
        "num_documents": int(table.documents.sum()),
        "num_tokens": int(table.tokens.sum()),
        "num_replies": int(table.replies.sum()),
        "num_bytes": sum(part["num_bytes"] for part in parts),
        "max_token": max(part["max_token"] for part in parts),
        "fingerprint": _fingerprint(job, table, vocab_size),
        "skipped": skipped.to_json(),
        "filtered": dict(sorted(filtered.items())),
        "shards": {
            "names": table.names,
            **{name: getattr(table, name).tolist() for name in ShardCounts._fields},
            "sha256": table.sha256,
        },
    }


def _fingerprint(job: CorpusJob, table: ShardTable, vocab_size: int) -> str:
    """Return the fingerprint of a token cache of the same text; of a large split, a hash of its shards' checksums."""
    token_bytes = token_dtype(vocab_size).itemsize
    if table.tokens.sum() * token_bytes > CACHE_FINGERPRINT_BYTES:
        return sha256_json(table.sha256)
    layouts = shard_layouts(table.documents, table.tokens, table.replies, token_bytes)
    starts = np.cumsum(table.tokens) - table.tokens
    digest = hashlib.sha256()
    for name, size in zip(table.names, (table.tokens * token_bytes).tolist(), strict=True):
        for piece in _pieces(job, name, 0, size):
            digest.update(piece)
    # The last offset of a shard is the first of the next one, so that only the last shard's is taken.
    for begins, counts in ((layouts.offsets, table.documents), (layouts.replies, table.replies)):
        for shard, name in enumerate(table.names):
            begin = int(begins[shard])
            stop = begin + int(counts[shard]) * STORED.itemsize
            stored = np.frombuffer(b"".join(_pieces(job, name, begin, stop)), STORED)
            digest.update((stored.astype(np.int64) + starts[shard]).data)
        if counts is table.documents:
            digest.update(np.array([table.tokens.sum()], np.int64).data)
    return digest.hexdigest()


def _pieces(job: CorpusJob, name: str, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes start..stop - 1 of a shard."""
    path = places.parse(job.place) / name
    for first in range(start, stop, _READ):
        yield places.read_range(path, first, min(first + _READ, stop))
