"""Runs the tasks of a corpus in processes of this machine."""

import concurrent.futures
import logging
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from tlx.base.errors import DataError
from tlx.data.parent_process import end_with_parent

_log = logging.getLogger("tlx")

_SECONDS_BETWEEN_LINES = 60.0  # where there is no terminal for a bar


class LocalRunner:
    """Processes of this machine; one alone is this process."""

    def __init__(self, processes: int):
        """Take the number of processes, 1 or more."""
        self.processes = processes

    def run(self, function: Callable[[int], None], numbers: Sequence[int], title: str) -> None:
        """Return when the function was called with each number.

        Args:
            function: Picklable.
            numbers: Its arguments.
            title: What is done, for progress.

        Raises:
            DataError: A process was killed; the first error of a call is raised as it is.
        """
        progress = _Progress(title, len(numbers))
        if self.processes == 1 or len(numbers) == 1:
            for number in numbers:
                function(number)
                progress.add()
            return
        # Not forked: the parent may have threads.
        pool = concurrent.futures.ProcessPoolExecutor(
            min(self.processes, len(numbers)), multiprocessing.get_context("spawn"), end_with_parent
        )
        with pool:
            try:
                for future in concurrent.futures.as_completed(pool.submit(function, n) for n in numbers):
                    future.result()
                    progress.add()
            except BrokenProcessPool as error:
                raise DataError(
                    "a process was killed while it prepared the corpus, perhaps for memory (--processes sets their "
                    "number); the same command again goes on with what is not done"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


class _Progress:
    """A bar on a terminal; elsewhere a line from time to time."""

    def __init__(self, title: str, total: int):
        self._bar = tqdm(total=total, desc=title, unit=" tasks", disable=None)
        self._title = title
        self._total = total
        self._done = 0
        self._said = time.monotonic()

    def add(self) -> None:
        self._done += 1
        self._bar.update()
        if self._done == self._total:
            self._bar.close()
        elif self._bar.disable and time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            _log.warning("%s: %s of %s tasks", self._title, f"{self._done:,}", f"{self._total:,}")
