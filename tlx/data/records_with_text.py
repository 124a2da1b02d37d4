"""Batches of records with rows of text beside them: prompts that a policy answers, and what it was pretrained on."""

import numpy as np
from typing_extensions import override

from tlx.base.files import sha256_json
from tlx.data.batches import Batch
from tlx.data.extended_records import ExtendedRecords
from tlx.data.pipeline import Pipeline
from tlx.data.records import RecordPipeline


class RecordsWithText(ExtendedRecords):
    """Rows of items, each with the next rows of a text. Picklable: each data worker gets a copy.

    Args:
        records: The items; an epoch is theirs.
        text: Rows of text, `rows` for each item of a batch.
        rows: Rows of text for each item, W.
        prefix: What stands before the keys of text, [B, W, ...].
    """

    def __init__(self, records: RecordPipeline, text: Pipeline, rows: int, prefix: str):
        super().__init__(records, sha256_json([records.fingerprint, text.fingerprint, rows]))
        self._text = text
        self._rows = rows
        self._prefix = prefix

    @override
    def _row(self, k: int, b: int, in_order: bool = False) -> Batch:
        # Row b of batch k reads rows b W to b W + W - 1 of batch k of the text, which has W times as many.
        rows = [self._text._row(k, b * self._rows + n, in_order) for n in range(self._rows)]
        stacked = {self._prefix + name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return self._pipeline._row(k, b, in_order) | stacked
