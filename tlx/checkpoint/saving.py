"""One save in flight: Orbax writes and commits, then the files are hashed and the step is sealed."""

import logging
import pathlib
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from tlx.base import tree as trees_by_path
from tlx.base.errors import LeaseError
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint import steps, store, trees
from tlx.checkpoint.manifest import LeafInfo

PART_TIMEOUT = 900.0  # s that process 0 waits for the hashes of another
REMOVE_TIMEOUT = 30.0  # s that a failed save's last writers may still be at work

log = logging.getLogger("tlx")


class SaveJob:
    """Starts the save at once; the rest happens on `thread`, which nobody needs to watch.

    `error` is None once the thread has ended and the step is complete. On process 0 `guard` is called before
    the seal, `sealed(job)` after it; `failed(job)` is called where the error happened.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        step: int,
        tree: Any,
        leaves: dict[str, LeafInfo],
        extra: dict[str, Any],
        *,
        guard: Callable[[], None],
        sealed: Callable[["SaveJob"], None],
        failed: Callable[["SaveJob"], None],
    ):
        self.folder, self.step, self.leaves, self.extra = folder, step, leaves, extra
        self.size = trees_by_path.num_bytes(tree)
        self.error: BaseException | None = None
        self.began = time.monotonic()
        self._guard, self._sealed, self._failed = guard, sealed, failed
        self._process, self._count = jax.process_index(), jax.process_count()
        self._response = None
        try:
            self._response = store.start_save(folder / str(step), trees.split(tree))
        except OSError as error:
            self.error = error
        self.thread = threading.Thread(target=self._finish, name=f"checkpoint-{step}", daemon=True)
        self.thread.start()

    def remove(self) -> None:
        """Process 0, after a failure that all processes know of: gives the disk space back.

        Orbax reports the first file that failed while it still writes others, so that a folder can fill again
        while it is emptied. What cannot be removed stays marked as unfinished, for `steps.clean`.
        """
        target = self.folder / str(self.step)
        deadline = time.monotonic() + REMOVE_TIMEOUT
        try:
            while target.is_dir():
                try:
                    shutil.rmtree(target)
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            steps.mark_finished(self.folder, self.step)
        except OSError as error:
            log.warning("cannot remove the unfinished checkpoint at step %d: %s", self.step, error)

    def _finish(self) -> None:
        try:
            if self.error is not None:
                raise self.error
            self._response.result()
            self._seal()
        except BaseException as error:
            self.error = error
            self._tell_first()
            if not isinstance(error, LeaseError):
                self._failed(self)
            if self._count == 1 and not isinstance(error, LeaseError):
                self.remove()
            return
        finally:
            self._response = None  # and with it Orbax's copies of the arrays
        if self._process == 0:
            try:
                self._sealed(self)
            except Exception as error:  # the step itself is safe
                log.warning("after saving step %d: %s", self.step, error)

    def _seal(self) -> None:
        target = self.folder / str(self.step)
        files = manifests.own_files(target, self._process, self._count)
        if self._process != 0:
            manifests.write_part(target, self._process, {"files": files})
            return
        files.update(manifests.gather_parts(target, self._count, PART_TIMEOUT))
        self._guard()
        manifests.seal(target, manifests.Manifest(self.step, files, self.leaves, self.extra))
        steps.mark_finished(self.folder, self.step)

    def _tell_first(self) -> None:
        """So that process 0 does not wait in vain; the disk may be why we failed, so this may fail too."""
        if self._process == 0:
            return
        try:
            manifests.write_part(self.folder / str(self.step), self._process, {"error": str(self.error)})
        except OSError:
            pass
