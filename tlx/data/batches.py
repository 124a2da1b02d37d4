"""Random access to batches by index, and prefetching with grain: the base class of all pipelines."""

import concurrent.futures
import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from tlx.data.parent_process import end_with_parent

Batch = dict[str, np.ndarray]

_PREFETCHED_BATCHES = 8
# Rows that are made at once where they are read from a bucket: 1,600 rows/s at two requests of 20 ms a row.
_ROWS_IN_FLIGHT = 64
_BATCHES_IN_FLIGHT = 4


class Batches:
    """Batches that are a pure function of their index. Picklable: each data worker gets a copy.

    A subclass implements `_row(k, b, in_order)`, which returns the arrays of row b of batch k, either in
    training order or in the split's own order. In the split's own order, rows after its end have weight 0.
    """

    batch_size: int
    """Rows of a global batch."""
    num_tokens: int
    """Tokens of the split."""
    num_windows: int
    """Rows of one epoch."""
    fingerprint: str
    """Hash of the data and of its order."""
    _workers: int
    _is_remote: bool = False
    """Whether rows wait for requests to a bucket."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in which every row is read about once."""
        return -(-self.num_windows // self.batch_size)

    def _row(self, k: int, b: int, in_order: bool = False) -> Batch:
        raise NotImplementedError

    def batch(self, k: int, rows: Sequence[int] | None = None) -> Batch:
        """Return batch k as arrays [rows, ...]: all its rows, or those with the given indices."""
        if rows is None:
            rows = range(self.batch_size)
        if self._is_remote:
            return _stack(list(_row_threads().map(lambda b: self._row(int(k), int(b)), rows)))
        return _stack([self._row(int(k), int(b)) for b in rows])

    def iterate(self, start: int = 0, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batch(start, rows), batch(start + 1, rows), ... without end, prefetched by grain.

        Batches are built in a thread, or in `data.workers` processes. Close the generator to stop them.
        """
        import grain  # imported here: it takes about a second, which only iteration needs

        rows = None if rows is None else tuple(rows)
        # Random access by index: to resume is to start there, and grain keeps no state of its own.
        batches = grain.MapDataset.source(_BatchSource(self, start, rows))
        read_options = grain.ReadOptions(
            num_threads=_BATCHES_IN_FLIGHT if self._is_remote else 1, prefetch_buffer_size=_PREFETCHED_BATCHES
        )
        dataset = batches.to_iter_dataset(read_options)
        if self._workers:
            from absl import flags

            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads its own absl flags, which tlx does not offer
            worker_options = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=2)
            dataset = dataset.mp_prefetch(worker_options, worker_init_fn=_begin_worker)
        iterator = iter(dataset)
        try:
            yield from iterator
        finally:
            iterator.close()

    def epoch_batches(self, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield the split once, in its own order: `steps_per_epoch` batches, padded with rows of weight 0.

        The random numbers of a row follow from its index in this order, so every pass is the same.
        """
        if rows is None:
            rows = range(self.batch_size)
        # Without prefetching: an evaluation is short.
        for k in range(self.steps_per_epoch):
            yield _stack([self._row(k, int(b), in_order=True) for b in rows])


class _BatchSource:
    """The batches from `start` on, as the random-access source that grain expects."""

    def __init__(self, pipeline: Batches, start: int, rows: tuple[int, ...] | None):
        self._pipeline = pipeline
        self._start = start
        self._rows = rows

    def __len__(self) -> int:
        return 1 << 40  # endless in practice; grain wants a length

    def __getitem__(self, index: int) -> Batch:
        return self._pipeline.batch(self._start + index, self._rows)


@functools.cache
def _row_threads() -> concurrent.futures.ThreadPoolExecutor:
    """Return the threads of this process in which rows are made that wait for requests."""
    return concurrent.futures.ThreadPoolExecutor(_ROWS_IN_FLIGHT, thread_name_prefix="rows")


def _stack(rows: list[Batch]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _begin_worker(worker: int, workers: int) -> None:
    """Keep a data worker that imports JAX from claiming the accelerator, and end it with its trainer."""
    del worker, workers
    os.environ["JAX_PLATFORMS"] = "cpu"
    end_with_parent()
