"""The thread that runs the model: requests within a window become one batch for each shape, chunk by chunk.

Batches of several shapes take turns, a chunk each, so that a long text does not keep the others waiting. A row whose
caller has gone is ended at its next chunk.
"""

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from tlx.decode.cached import ChunkedDecoding
from tlx.decode.pieces import TextPieces
from tlx.decode.rows import Pace, RowDecoder, RowRequest, RowShape

_log = logging.getLogger("tlx")

# Seconds from the first request of a batch to its start.
WINDOW = 0.01
MAX_ROWS = 32
# Batches whose caches are in memory at the same time.
MAX_BATCHES = 4
MAX_WAITING = 256


class Event(NamedTuple):
    """News of a text for its caller."""

    text: str = ""
    """The next piece of it."""
    finish: str | None = None
    """Why it has ended: "stop" or "length"; "error" for a defect; None: it has not."""
    num_tokens: int = 0
    """Number of its tokens so far."""


@dataclasses.dataclass(eq=False)
class Job:
    """A text that is wanted."""

    row: RowRequest
    """The prompt, and how it is continued."""
    pieces: TextPieces
    """Its text."""
    emit: Callable[[Event], None]
    """Called in the engine's thread with what is new."""
    is_cancelled: bool = False
    """Set by the caller: no more of it is wanted."""
    is_finished: bool = False
    """Set by the engine."""

    def take(self, tokens: list[int], is_done: bool) -> None:
        """Add the row's tokens so far, and tell the caller."""
        text = self.pieces.feed(tokens[len(self.pieces.tokens) :])
        self.is_finished = is_done or self.pieces.stopped
        if not self.is_finished:
            if text:
                self.emit(Event(text, None, len(self.pieces.tokens)))
            return
        text += self.pieces.finish()
        is_whole = self.pieces.stopped or len(tokens) < self.row.max_tokens
        self.emit(Event(text, "stop" if is_whole else "length", len(self.pieces.tokens)))


class Batch:
    """Rows of one shape that are continued together."""

    def __init__(self, decoder: RowDecoder, jobs: list[Job], shape: RowShape):
        """Read the prompts of the jobs."""
        self.jobs = jobs
        self._decoder = decoder
        self._pace = Pace()
        self._decoding: ChunkedDecoding = decoder.begin([job.row for job in jobs], shape)

    def advance(self) -> bool:
        """Continue all rows by a chunk; return whether any is still wanted."""
        wanted = [not job.is_finished and not job.is_cancelled for job in self.jobs]
        if not any(wanted):
            return False
        num_rows = len(self._decoding.lengths_B)
        # Rows that only fill the batch end at once.
        ended_B = ~np.pad(wanted, (0, num_rows - len(wanted)))
        chunk = self._decoding.advance(self._pace.next(), ended_B)
        for index, job in enumerate(self.jobs):
            if wanted[index]:
                tokens = chunk.tokens_BT[index, : chunk.counts_B[index]].tolist()
                if chunk.done_B[index]:
                    self._decoder.store(self._decoding, index, job.row.prompt, tokens)
                job.take(tokens, bool(chunk.done_B[index]))
        return any(not job.is_finished for job in self.jobs)


class Engine:
    """Continues texts in a thread of its own."""

    def __init__(self, decoder: RowDecoder, window: float = WINDOW):
        """Start the thread.

        Args:
            decoder: The model.
            window: Seconds from the first request of a batch to its start.
        """
        self._decoder = decoder
        self._window = window
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._waiting: list[Job] = []
        self._due = 0.0
        self._batches: list[Batch] = []
        self._is_closed = False
        self.num_batches = 0
        """Number of batches begun so far."""
        self._thread = threading.Thread(target=self._run, name="tlx-serve", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether as many texts wait as may."""
        return self._queue.qsize() + len(self._waiting) >= MAX_WAITING

    def submit(self, jobs: Iterable[Job]) -> None:
        """Queue texts."""
        for job in jobs:
            self._queue.put(job)

    def close(self) -> None:
        """End the thread, after the chunk that it is at."""
        self._is_closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            self._receive()
            if self._waiting and time.monotonic() >= self._due and len(self._batches) < MAX_BATCHES:
                self._start()
            self._batches = [batch for batch in self._batches if self._advance(batch)]

    def _receive(self) -> None:
        """Take requests from the queue; wait for them where nothing else is to be done."""
        timeout = None if not self._waiting else max(0.0, self._due - time.monotonic())
        wait = not self._batches
        while True:
            try:
                job = self._queue.get(block=wait, timeout=timeout)
            except queue.Empty:
                return
            wait = False
            if job is not None:
                if not self._waiting:
                    self._due = time.monotonic() + self._window
                self._waiting.append(job)

    def _start(self) -> None:
        """Begin a batch for each shape of the requests that wait, as many as there is room for."""
        groups: dict[RowShape, list[Job]] = {}
        waiting = [job for job in self._waiting if not job.is_cancelled]
        self._waiting = []
        for job in waiting:
            groups.setdefault(self._decoder.shape(job.row), []).append(job)
        for shape, jobs in groups.items():
            if len(self._batches) < MAX_BATCHES:
                self._begin(jobs[:MAX_ROWS], shape)
                jobs = jobs[MAX_ROWS:]
            # They come first the next time.
            self._waiting += jobs

    def _begin(self, jobs: list[Job], shape: RowShape) -> None:
        try:
            self._batches.append(Batch(self._decoder, jobs, shape))
            self.num_batches += 1
        except Exception:
            self._fail(jobs)

    def _advance(self, batch: Batch) -> bool:
        try:
            return batch.advance()
        except Exception:
            self._fail(batch.jobs)
            return False

    def _fail(self, jobs: list[Job]) -> None:
        """Tell the callers of a defect, such as too little memory; the log has the traceback."""
        _log.exception("tlx serve: a batch of %d failed", len(jobs))
        for job in jobs:
            if not job.is_finished:
                job.is_finished = True
                job.emit(Event(finish="error"))
