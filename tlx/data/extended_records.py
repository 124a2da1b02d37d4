"""The base class of batches of records that have further arrays beside the items' own."""

from typing import Any

from tlx.data.batches import Batches
from tlx.data.records import RecordPipeline


class ExtendedRecords(Batches):
    """Rows of items with further arrays, which a subclass adds in `_row`. An epoch is that of the items.

    Args:
        records: The items.
        fingerprint: sha256 of the items and of what is added.
    """

    def __init__(self, records: RecordPipeline, fingerprint: str):
        self.batch_size = records.batch_size
        self.num_windows = records.num_windows
        self.num_tokens = records.num_tokens
        self.fingerprint = fingerprint
        self._workers = records._workers
        self._pipeline = records

    @property
    def records(self) -> Any:
        """Records of the split."""
        return self._pipeline.records

    @property
    def items(self) -> Any:
        """Items of the split."""
        return self._pipeline.items
