"""The tokens of a split of a prepared corpus, read by range from its shards."""

import collections
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import DataError
from tlx.base.files import cache_folder
from tlx.data.cache import token_dtype
from tlx.data.corpus.index import shard_table
from tlx.data.corpus.shard import BLOCK, STORED, num_blocks, shard_layouts
from tlx.data.corpus.shard_cache import ShardCache
from tlx.data.corpus.shard_files import ShardFiles
from tlx.data.token_split import DocumentSpan

# Shards whose blocks are kept: at 65,536 tokens a block and 2^26 tokens a shard, 4 MB.
_KEPT_BLOCKS = 1024


class _Piece(NamedTuple):
    """A part of a range that lies in one shard."""

    shard: int
    first: int  # index of its first entry in the shard
    stop: int


class PreparedSplit:
    """One split of a source of a prepared corpus; a TokenSplit. Memory grows with the number of shards alone.

    Attributes:
        meta: Entry of the split in the index, without its shards, and `vocab_size`.
    """

    def __init__(
        self, place: str, entry: Mapping[str, Any], vocab_size: int, key: str = "", cache_bytes: int = 0
    ):
        """Take over the entry of an index; no shard is opened.

        Args:
            place: Folder or bucket of the corpus.
            entry: Entry of the split in the index.
            vocab_size: Number of ids of the tokenizer.
            key: Key of the corpus.
            cache_bytes: Bytes of the shards of a bucket that are kept on this machine; 0: none.
        """
        table = shard_table(entry)
        self.meta = {name: value for name, value in entry.items() if name != "shards"}
        self.meta["vocab_size"] = vocab_size
        self._place = place
        self._dtype = token_dtype(vocab_size)
        # First document, token and turn of each shard, and the numbers of all of them.
        self._documents = np.concatenate([[0], np.cumsum(table.documents)])
        self._tokens = np.concatenate([[0], np.cumsum(table.tokens)])
        self._replies = np.concatenate([[0], np.cumsum(table.replies)])
        self._layouts = shard_layouts(table.documents, table.tokens, table.replies, self._dtype.itemsize)
        cache = ShardCache(place, key, table.names, table.sha256, cache_bytes) if cache_bytes else None
        self._files = ShardFiles(place, table.names, self._layouts.size, cache)
        self._blocks: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()
        if self.meta["max_token"] >= vocab_size:
            raise DataError(
                f"{self.where} holds token {self.meta['max_token']}, outside its vocabulary of {vocab_size}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_blocks": collections.OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})

    @property
    def num_tokens(self) -> int:
        """Number of tokens, including eos."""
        return self.meta["num_tokens"]

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return self.meta["num_documents"]

    @property
    def num_replies(self) -> int:
        """Number of turns of conversations, without the first turn of each."""
        return self.meta["num_replies"]

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text of all documents."""
        return self.meta["num_bytes"]

    @property
    def fingerprint(self) -> str:
        """Hash of tokens and document lengths; up to 64 GiB that of a token cache of the same text."""
        return self.meta["fingerprint"]

    @property
    def is_remote(self) -> bool:
        """Whether a read is a request to a bucket, of which several should be in flight."""
        return self._files.is_remote

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f"the prepared corpus {self._place}"

    def read_tokens(self, start: int, stop: int) -> np.ndarray:
        """Return tokens start..stop - 1, uint16 or uint32."""
        size = self._dtype.itemsize
        pieces = [
            self._files.read(piece.shard, piece.first * size, piece.stop * size).view(self._dtype)
            for piece in _pieces(self._tokens, start, stop)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.zeros(0, self._dtype)

    def read_offsets(self, first: int, stop: int) -> np.ndarray:
        """Return the first tokens of documents first..stop - 1, int64; that of `num_documents` is `num_tokens`."""
        last = [[self.num_tokens]] if stop > self.num_documents else []
        pieces = [
            self._stored(piece.shard, self._layouts.offsets[piece.shard], piece.first, piece.stop)
            + self._tokens[piece.shard]
            for piece in _pieces(self._documents, first, min(stop, self.num_documents))
        ]
        return np.concatenate([*pieces, *last]).astype(np.int64)

    def read_replies(self, first: int, stop: int) -> np.ndarray:
        """Return the first tokens of turns first..stop - 1, int64."""
        pieces = [
            self._stored(piece.shard, self._layouts.replies[piece.shard], piece.first, piece.stop)
            + self._tokens[piece.shard]
            for piece in _pieces(self._replies, first, stop)
        ]
        return np.concatenate([np.zeros(0, np.int64), *pieces])

    def find_document(self, token: int) -> DocumentSpan:
        """Return the document that holds a token."""
        shard = int(np.searchsorted(self._tokens, token, "right")) - 1
        begin = int(self._tokens[shard])
        blocks = self._read_blocks(shard)
        block = (token - begin) // BLOCK
        # The document may begin before the block, and the next one after it.
        first = max(int(blocks[block]) - 1, 0)
        offsets = self._stored(shard, self._layouts.offsets[shard], first, int(blocks[block + 1]) + 1)
        index = int(np.searchsorted(offsets, token - begin, "right")) - 1
        return DocumentSpan(
            int(self._documents[shard]) + first + index,
            begin + int(offsets[index]),
            begin + int(offsets[index + 1]),
        )

    def starts_between(self, start: int, stop: int) -> np.ndarray:
        """Return the first tokens of the documents that begin after `start` and before `stop`, int64."""
        starts = [np.zeros(0, np.int64)]
        for piece in _pieces(self._tokens, start, stop):
            blocks = self._read_blocks(piece.shard)
            first = int(blocks[piece.first // BLOCK])
            last = int(blocks[(piece.stop - 1) // BLOCK + 1])
            offsets = self._stored(piece.shard, self._layouts.offsets[piece.shard], first, last)
            starts.append(offsets + self._tokens[piece.shard])
        offsets = np.concatenate(starts)
        return offsets[(offsets > start) & (offsets < stop)]

    def plan_folder(self, name: str) -> pathlib.Path:
        """Return the folder in the user's cache for what is derived from the tokens under this name."""
        return cache_folder() / "plans" / f"{self.fingerprint[:32]}-{name}"

    def _read_blocks(self, shard: int) -> np.ndarray:
        with self._lock:
            blocks = self._blocks.get(shard)
            if blocks is not None:
                self._blocks.move_to_end(shard)
                return blocks
        count = num_blocks(int(self._tokens[shard + 1] - self._tokens[shard])) + 1
        blocks = self._stored(shard, self._layouts.blocks[shard], 0, count)
        with self._lock:
            self._blocks[shard] = blocks
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return blocks

    def _stored(self, shard: int, begin: np.int64, first: int, stop: int) -> np.ndarray:
        """Entries first..stop - 1 of an array of a shard that begins at byte `begin`, int64."""
        size = STORED.itemsize
        data = self._files.read(shard, int(begin) + first * size, int(begin) + stop * size)
        return data.view(STORED).astype(np.int64)


def _pieces(begins: np.ndarray, start: int, stop: int) -> Iterator[_Piece]:
    """Yield the parts of start..stop - 1 in the shards, whose first entries are `begins`."""
    shard = int(np.searchsorted(begins, start, "right")) - 1
    while start < stop:
        end = min(stop, int(begins[shard + 1]))
        begin = int(begins[shard])
        # A shard may have no entry at all, of turns say.
        if end > start:
            yield _Piece(shard, start - begin, end - begin)
        start = max(start, end)
        shard += 1
