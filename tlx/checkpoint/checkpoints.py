"""A run's checkpoints: saved in the background, sealed by hashes, restored from the newest that verifies."""

import json
import logging
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from tlx.base import tree as trees_by_path
from tlx.base.errors import CheckpointError, DeviceMemoryError, LeaseError, StorageError
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint import reading, saving, steps, trees
from tlx.checkpoint.config import CheckpointConfig
from tlx.checkpoint.manifest import Damaged
from tlx.checkpoint.reading import LoadedCheckpoint
from tlx.parallel import consensus

FREE_SPACE_FACTOR = 2.2  # the new step, the one it replaces, and some air

log = logging.getLogger("tlx")


class Checkpoints:
    """Saves and restores any pytree of arrays under `folder`/<step>/. Knows no model.

    Every method is called by all processes of the run, on the main thread, in the same order; all see the
    same file system. A step counts from the moment it is committed and sealed, never before. What is on
    disk: tlx/checkpoint/steps.py.

    guard: called on process 0 before it writes; raises LeaseError when the run directory was taken over.
    on_event: called as on_event(kind, **fields) for events.jsonl, from the main or the background thread;
        kinds checkpoint_saved, checkpoint_failed, checkpoint_skipped, checkpoint_deleted.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        config: CheckpointConfig | None = None,
        *,
        guard: Callable[[], None] | None = None,
        on_event: Callable[..., None] | None = None,
    ):
        self.folder = pathlib.Path(folder).absolute()
        self.config = config or CheckpointConfig()
        self._guard = guard or (lambda: None)
        self._event = on_event or (lambda kind, **fields: None)
        self._sound: set[int] = set()  # steps that this object sealed or verified
        self._job: saving.SaveJob | None = None
        self._failures = 0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        if self._job is not None:
            self._job.thread.join()

    def prepare(self) -> None:
        """Makes the folder, proves that it can be written, removes what a killed run left half done.

        Call it once the lease is held. Raises StorageError (exit 73) with path and reason.
        """
        problem = None
        if jax.process_index() == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder):
                    pass
                steps.clean(self.folder)
            except OSError as error:
                problem = error
        if consensus.broadcast_from_first(0 if problem is None else 1):
            raise StorageError(
                f"cannot write checkpoints to {self.folder}: {problem or 'see process 0'}"
            ) from problem

    def due(self, step: int) -> bool:
        """Whether the config asks for a save after `step` steps."""
        every = self.config.every > 0 and step > 0 and step % self.config.every == 0
        return every or step in self.config.keep_at

    def complete_steps(self) -> list[int]:
        """Steps that were committed and sealed, ascending."""
        return list(steps.listing(self.folder).complete)

    @property
    def latest(self) -> int | None:
        """The newest complete step."""
        return max(self.complete_steps(), default=None)

    def save(self, step: int, tree: Any, extra: dict[str, Any] | None = None) -> bool:
        """Starts saving `tree` and the JSON `extra` as `step`; the arrays may be donated once this returns.

        Waits for the save before it. Returns False where nothing was started: the step is saved already, or
        there was no room (one error line; training goes on and the next interval tries again). Raises
        StorageError (exit 73) after `max_failures` in a row, LeaseError (exit 75) when the lease is lost.
        """
        leaves = trees.describe(tree)
        extra = json.loads(json.dumps(extra or {}))  # refuses what is not JSON now, not in the background
        self._settle()
        if consensus.broadcast_from_first(
            int(step in self._sound and steps.is_complete(self.folder / str(step)))
        ):
            return False
        size = trees_by_path.num_bytes(tree)
        problem = self._make_place(step, size) if jax.process_index() == 0 else None
        verdict = consensus.broadcast_from_first(
            0 if problem is None else 2 if isinstance(problem, LeaseError) else 1
        )
        if verdict == 2:
            raise problem or LeaseError("process 0 lost the lease of the run directory")
        if verdict == 1:
            if problem is not None:
                self._report_failure(step, problem, size)
            self._count_failure()
            return False
        self._job = saving.SaveJob(
            *(self.folder, step, tree, leaves, extra),
            guard=self._guard,
            sealed=self._after_seal,
            failed=lambda job: self._report_failure(job.step, job.error, job.size),
        )
        return True

    def wait(self) -> bool:
        """Waits for the save in flight; whether the last save succeeded. Raises what `save` raises."""
        self._settle()
        return self._failures == 0

    def restore(self, abstract: Any, step: int | None = None) -> LoadedCheckpoint | None:
        """(step, tree, extra) of the newest complete step that verifies, or None where there never was one.

        abstract: the tree wanted, as ShapeDtypeStructs (or arrays): leaves with a sharding come back as jax
        arrays so sharded, on any number of devices, the others as numpy. Damaged steps are renamed to
        <step>.corrupt-<time>, with one log line, and the next older one is tried; a step whose content is
        sound but that cannot be loaded is left in place. With `step` given only that one is tried.

        Raises CheckpointError (exit 74): leaves that do not match (a table of all), or steps were there and
        none can be used (each with its reason); DeviceMemoryError (exit 78) when it does not fit.
        """
        if jax.process_index() == 0:
            steps.warn_of_strange(self.folder, steps.listing(self.folder))
        reasons: dict[int, str] = {}
        if step is not None:
            next(reading.candidates(self.folder, step))
        while (number := self._newest(reasons, step)) is not None:
            loaded = self._try(number, abstract, reasons, keep=step is not None)
            if loaded is not None:
                self._sound.add(number)
                return loaded
        found = steps.listing(self.folder)
        if consensus.broadcast_from_first(int(bool(reasons or found.corrupt or found.incomplete))):
            raise reading.nothing_left(self.folder, reasons)
        return None

    def load_params(self, step: int | None = None, *, dtype: Any = None) -> LoadedCheckpoint:
        """Parameters only, as numpy: see `reading.load_params`."""
        return reading.load_params(self.folder, step, dtype=dtype, verify=self.config.verify)

    def _newest(self, reasons: dict[int, str], step: int | None) -> int | None:
        complete = [n for n in self.complete_steps() if n not in reasons and step in (None, n)]
        number = consensus.broadcast_from_first(max(complete, default=-1))
        return None if number < 0 else number

    def _try(
        self, number: int, abstract: Any, reasons: dict[int, str], keep: bool
    ) -> LoadedCheckpoint | None:
        """Verifies and loads one step; on failure notes the reason and sets the step aside unless `keep`."""
        folder = self.folder / str(number)
        reason, found = self._check(folder, self.config.verify)
        if found is not None:
            try:
                return LoadedCheckpoint(number, reading.load(folder, found, abstract), found.extra)
            except (CheckpointError, DeviceMemoryError):
                raise
            except Exception as error:
                first = (str(error).splitlines() or [""])[0]
                reason = f"cannot be loaded: {type(error).__name__}: {first}"
                damage, found = self._check(folder, "hash")
                reason = damage or reason
        reasons[number] = reason
        if found is None and not keep and jax.process_index() == 0:
            steps.set_aside(self.folder, number, "corrupt", reason)
        elif jax.process_index() == 0:
            log.warning("checkpoint at step %d skipped: %s", number, reason)
        self._event("checkpoint_skipped", step=number, reason=reason)
        consensus.all_processes(True)
        return None

    def _check(self, folder: pathlib.Path, level: str) -> tuple[str, manifests.Manifest | None]:
        """(reason, None) of a damaged step, ("", manifest) of a sound one; the files are shared out."""
        reason, found = "", None
        try:
            found = manifests.read(folder)
            share = sorted(found.files)[jax.process_index() :: jax.process_count()]
            manifests.verify(folder, found, level, share)
        except Damaged as error:
            reason = str(error)
        if consensus.all_processes(not reason):
            return "", found
        return reason or "another process found a damaged file", None

    def _make_place(self, step: int, size: int) -> Exception | None:
        """Process 0: room on the disk, nothing in the way, and a mark that tlx is at work."""
        try:
            self._guard()
            free = shutil.disk_usage(self.folder).free
            if free < FREE_SPACE_FACTOR * size:
                return OSError(f"too little room ({FREE_SPACE_FACTOR} x {size} bytes wanted)")
            if os.path.lexists(self.folder / str(step)):
                steps.set_aside(self.folder, step, "replaced", "in the way of a new save of this step")
            steps.mark_unfinished(self.folder, step)
        except (OSError, LeaseError) as error:
            return error
        return None

    def _settle(self) -> None:
        """Waits for the save in flight and takes note of how it went, on all processes alike."""
        job, self._job = self._job, None
        if job is None:
            return
        job.thread.join()
        if consensus.all_processes(job.error is None):
            self._failures = 0
            self._sound.add(job.step)
            return
        if consensus.broadcast_from_first(int(isinstance(job.error, LeaseError))):
            raise LeaseError(str(job.error or "process 0 lost the lease of the run directory"))
        if jax.process_index() == 0:
            job.remove()
        self._count_failure()

    def _report_failure(self, step: int, error: BaseException, size: int) -> None:
        """The one line that a failed save costs."""
        first = (str(error).splitlines() or [type(error).__name__])[0]
        try:
            free = str(shutil.disk_usage(self.folder).free)
        except OSError:
            free = "?"
        log.error(
            "checkpoint at step %d not saved (%s); %s: %d bytes needed, %s free; training goes on",
            *(step, first, self.folder, size, free),
        )
        self._event("checkpoint_failed", step=step, reason=first, needed=size, free=free)

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= self.config.max_failures:
            raise StorageError(f"{self._failures} checkpoints in a row could not be saved to {self.folder}")

    def _after_seal(self, job: saving.SaveJob) -> None:
        """Process 0, in the background."""
        self._sound.add(job.step)
        seconds = time.monotonic() - job.began
        self._event("checkpoint_saved", step=job.step, bytes=job.size, seconds=round(seconds, 3))
        self._retain(job.step)

    def _retain(self, newest: int) -> None:
        """Process 0: deletes what is neither among the newest nor permanent, if a sound step stays."""
        complete = self.complete_steps()
        kept = set(complete[-self.config.keep :]) | {newest} | set(complete).intersection(self.config.keep_at)
        if self.config.keep_every:
            kept |= {step for step in complete if step % self.config.keep_every == 0}
        doomed = [step for step in complete if step not in kept]
        if doomed and not any(self._still_sound(step) for step in sorted(kept, reverse=True)):
            log.warning(
                "no checkpoint deleted: none of %s that would stay is known to be sound", sorted(kept)
            )
            return
        for step in doomed:
            self._guard()
            steps.delete(self.folder, step)
            self._sound.discard(step)
            self._event("checkpoint_deleted", step=step)

    def _still_sound(self, step: int) -> bool:
        return step in self._sound and manifests.is_sound(self.folder / str(step), "size")
