"""An asynchronous save: Orbax writes and commits, then the files are hashed and the step is sealed."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from tlx.base import place as places
from tlx.base import tree as trees_by_path
from tlx.base.errors import LeaseError
from tlx.base.place import Place
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint import steps, store, trees
from tlx.checkpoint.manifest import Manifest

# Seconds that process 0 waits for the hashes of another process.
PART_TIMEOUT = 900.0
# Seconds that the writers of a failed save may still be at work.
REMOVE_TIMEOUT = 30.0

log = logging.getLogger("tlx")


class SaveJob:
    """A save that starts at once and is completed by a background thread, `thread`.

    `manifest` is that of the step without its files, which are only known once they are written.

    `error` is None once the thread has ended and the step is complete. On process 0 `guard` is called before
    the step is sealed and `sealed(job)` after it; `failed(job, error)` is called on the process that failed.
    """

    def __init__(
        self,
        folder: Place,
        manifest: Manifest,
        tree: Any,
        *,
        guard: Callable[[], None],
        sealed: Callable[["SaveJob"], None],
        failed: Callable[["SaveJob", BaseException], None],
    ):
        self.folder = folder
        self.step = manifest.step
        self._manifest = manifest
        self.size = trees_by_path.num_bytes(tree)
        self.error: BaseException | None = None
        self.began = time.monotonic()
        self._guard = guard
        self._sealed = sealed
        self._failed = failed
        self._process = jax.process_index()
        self._count = jax.process_count()
        self._response: Any = None
        try:
            self._response = store.start_save(folder / str(self.step), trees.split(tree))
        except OSError as error:
            self.error = error
        # A daemon: a process that must leave at once is not held by gigabytes still to be hashed.
        self.thread = threading.Thread(target=self._finish, name=f"checkpoint-{self.step}", daemon=True)
        self.thread.start()

    def remove(self) -> None:
        """Remove a failed save; called on process 0 after all processes know of the failure.

        Orbax reports the first file that failed while it still writes others, so a folder can fill again while it
        is emptied, and come back after it is gone: called again later, and the step stays marked as unfinished, for
        `steps.clean`.
        """
        target = self.folder / str(self.step)
        deadline = time.monotonic() + REMOVE_TIMEOUT
        try:
            while target.is_dir():
                try:
                    places.remove_tree(target)
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
        except OSError as error:
            log.warning("cannot remove the unfinished checkpoint at step %d: %s", self.step, error)

    def _finish(self) -> None:
        try:
            if self.error is not None:
                raise self.error
            self._response.result()
            self._seal()
        # Whatever it is, the main thread asks for it at the next save: an error on this thread would be lost.
        except BaseException as error:
            self.error = error
            # Else process 0 would wait PART_TIMEOUT for a part that cannot come.
            self._tell_first()
            if not isinstance(error, LeaseError):
                self._failed(self, error)
            if self._count == 1 and not isinstance(error, LeaseError):
                self.remove()
            return
        finally:
            # Frees Orbax's host copies of the arrays.
            self._response = None
        if self._process == 0:
            try:
                self._sealed(self)
            except Exception as error:
                # The step itself is safe.
                log.warning("after saving step %d: %s", self.step, error)

    def _seal(self) -> None:
        target = self.folder / str(self.step)
        # Read back from the disk, by the process that wrote them: on NFS others may not see all of them yet.
        parts = {trees.part_of(path) for path in self._manifest.leaves}
        files = manifests.own_files(target, self._process, self._count, parts)
        if self._process != 0:
            manifests.write_part(target, self._process, {"files": files})
            return
        files.update(manifests.gather_parts(target, self._count, PART_TIMEOUT))
        self._guard()
        manifests.seal(target, self._manifest._replace(files=files))
        steps.mark_finished(self.folder, self.step)

    def _tell_first(self) -> None:
        """Report the error to process 0, which waits for this part; this may fail too where the disk is full."""
        if self._process == 0:
            return
        try:
            manifests.write_part(self.folder / str(self.step), self._process, {"error": str(self.error)})
        except OSError:
            pass
