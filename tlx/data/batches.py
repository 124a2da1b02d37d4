"""Batches by number, built ahead by grain: what every pipeline offers, whatever its rows are made of."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

Batch = dict[str, np.ndarray]

_AHEAD = 8  # batches built before they are asked for


class Batches:
    """Batches of rows that are a function of their numbers. Picklable: data workers get a copy.

    A subclass has the row: `_row(k, b, in_order)` gives the arrays of row b of batch k, in the order of
    training or in the split's own; in that, rows behind the end have weight 0.
    """

    batch_size: int
    num_tokens: int
    num_windows: int  # rows of an epoch
    fingerprint: str  # of the data and of the order in which they come
    _workers: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches after which every row was read about once."""
        return -(-self.num_windows // self.batch_size)

    def _row(self, k: int, b: int, in_order: bool = False) -> Batch:
        raise NotImplementedError

    def batch(self, k: int, rows: Sequence[int] | None = None) -> Batch:
        """Arrays [rows, ...] of batch k: of all its rows, or of those given (numbers in 0..batch_size-1)."""
        rows = range(self.batch_size) if rows is None else rows
        return _stack([self._row(int(k), int(b)) for b in rows])

    def iterate(self, start: int = 0, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """batch(start, rows), batch(start + 1, rows), ... for ever, built ahead by grain.

        In a thread, or in `data.workers` processes. Close the generator to stop them.
        """
        import grain  # here: a second that only those who iterate have to wait

        read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
        batches = grain.MapDataset.source(_From(self, start, None if rows is None else tuple(rows)))
        dataset = batches.to_iter_dataset(read)
        if self._workers:
            from absl import flags

            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads its own absl flags, which tlx does not offer
            options = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=2)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_on_cpu)
        iterator = iter(dataset)
        try:
            yield from iterator
        finally:
            iterator.close()

    def epoch_batches(self, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """The split once, in its own order: `steps_per_epoch` batches; rows behind its end have weight 0.

        The randomness of a row is that of its place in this order, so every pass is the same.
        """
        rows = range(self.batch_size) if rows is None else rows
        for k in range(self.steps_per_epoch):
            yield _stack([self._row(k, int(b), in_order=True) for b in rows])


class _From:
    """Batches from `start` on, as the random-access source that grain wants."""

    def __init__(self, pipeline: Batches, start: int, rows: tuple[int, ...] | None):
        self._pipeline, self._start, self._rows = pipeline, start, rows

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> Batch:
        return self._pipeline.batch(self._start + index, self._rows)


def _stack(rows: list[Batch]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _on_cpu(worker: int, workers: int) -> None:
    """A data worker that touches JAX after all must not reach for the accelerator."""
    del worker, workers
    os.environ["JAX_PLATFORMS"] = "cpu"
