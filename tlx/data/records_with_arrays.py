"""Batches of records with stored arrays of each item beside them: what a teacher said of it."""

import functools
import pathlib
from collections.abc import Mapping

import numpy as np
from typing_extensions import override

from tlx.base.files import sha256_json
from tlx.data.batches import Batch
from tlx.data.extended_records import ExtendedRecords
from tlx.data.records import RecordPipeline


class RecordsWithArrays(ExtendedRecords):
    """Rows of items, each with its arrays. Picklable: each data worker gets a copy, and opens files itself.

    Args:
        records: The items; the batches are theirs.
        arrays: Arrays [items, ...] by the key of a batch, or the .npy files that hold them.
        key: What the arrays depend on besides the items, for the fingerprint.
    """

    def __init__(self, records: RecordPipeline, arrays: Mapping[str, np.ndarray | pathlib.Path], key: str):
        super().__init__(records, sha256_json([records.fingerprint, key]))
        self._arrays = dict(arrays)

    @override
    def _row(self, k: int, b: int, in_order: bool = False) -> Batch:
        index = self._pipeline.item_index(k * self.batch_size + b, in_order)
        stored = {}
        for name, values in self._arrays.items():
            values = _opened(values) if isinstance(values, pathlib.Path) else values
            # Rows behind the end of a split repeat the last one; their weights are 0.
            stored[name] = np.array(values[min(index, len(values) - 1)])
        return self._pipeline._row(k, b, in_order) | stored


@functools.lru_cache(8)
def _opened(path: pathlib.Path) -> np.ndarray:
    """Open an array without reading it: rows are read as they come."""
    return np.load(path, mmap_mode="r")
