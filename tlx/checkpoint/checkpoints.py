"""Checkpoints of a run: saved asynchronously, sealed by hashes, restored from the newest that verifies."""

import json
import logging
import os
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import jax

from tlx.base import place as places
from tlx.base import tree as trees_by_path
from tlx.base.errors import CheckpointError, DeviceMemoryError, LeaseError, StorageError, first_line
from tlx.base.place import BucketPath, Place
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint import reading, saving, steps, trees
from tlx.checkpoint.best import BestStep, write_best
from tlx.checkpoint.config import CheckpointConfig
from tlx.checkpoint.manifest import Damaged
from tlx.checkpoint.reading import LoadedCheckpoint
from tlx.parallel import consensus

# Free space that a save needs, over its own size: the new step, the one that it replaces, and a margin.
FREE_SPACE_FACTOR = 2.2

log = logging.getLogger("tlx")


class Checkpoints:
    """Saves and restores pytrees of arrays under `folder`/<step>/.

    All processes of the run call every method, on the main thread and in the same order, and share a file system. A
    step is complete once it is committed and sealed. checkpoint/steps.py describes the files.

    Args:
        folder: The folder of steps.
        config: When to save, what to keep and how to verify; None: the defaults.
        guard: Called on process 0 before it writes; raises LeaseError where another run has the directory.
        on_event: Called as on_event(kind, **fields) for events.jsonl, from the main or the background thread. Kinds:
            checkpoint_saved, checkpoint_best, checkpoint_failed, checkpoint_skipped, checkpoint_deleted.
        run_id: Id of the run; steps of another one are damaged. None: that of the step which is restored (a run that
            begins with a copied step goes on under its id), or else a new one.
        starts: Ids of the earlier starts of the run in this directory; steps of other starts are of a copy of it.
            (): not known.
    """

    def __init__(
        self,
        folder: str | os.PathLike | BucketPath,
        config: CheckpointConfig | None = None,
        *,
        guard: Callable[[], None] | None = None,
        on_event: Callable[..., None] | None = None,
        run_id: str | None = None,
        starts: Sequence[str] = (),
    ):
        self.folder = places.parse(folder)
        self.config = config or CheckpointConfig()
        self._run_id = run_id
        self._starts = tuple(starts)
        self._start = secrets.token_hex(8)
        self._guard = guard or (lambda: None)
        self._event = on_event or (lambda kind, **fields: None)
        # Steps that this object has sealed or verified.
        self._sound: set[int] = set()
        self._job: saving.SaveJob | None = None
        self._failures = 0
        # Failed saves by step: their writers may create files after these were removed.
        self._failed: dict[int, saving.SaveJob] = {}
        # The best step that is saved, and those that were the best when they were evaluated: a save takes a while,
        # and a better step may follow before it is sealed.
        self._best: BestStep | None = None
        self._marked: dict[int, BestStep] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        if self._job is not None:
            self._job.thread.join()
        self._remove_failed()

    def prepare(self) -> None:
        """Create the folder, check that it can be written, and remove what a killed run has left unfinished.

        To be called once the lease is held. Raises StorageError (exit code 73) with path and reason.
        """
        problem = None
        if jax.process_index() == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Found out before training: a folder may exist and still refuse files.
                places.check_writable(self.folder)
                steps.clean(self.folder)
            except OSError as error:
                problem = error
        # Only process 0 writes here, but all must stop: one that went on would wait for it in a collective.
        if consensus.broadcast_from_first(0 if problem is None else 1):
            raise StorageError(
                f"cannot write checkpoints to {self.folder}: {problem or 'see process 0'}"
            ) from problem

    @property
    def run_id(self) -> str:
        """Id of the run, to be asked for after `restore`."""
        if self._run_id is None:
            self._run_id = uuid.uuid4().hex
        return self._run_id

    @property
    def starts(self) -> tuple[str, ...]:
        """Ids of the starts whose steps are this directory's, the last one this start's; ask after `restore`."""
        return (*self._starts, self._start)

    @property
    def _known_starts(self) -> tuple[str, ...]:
        return self.starts if self._starts else ()

    def due(self, step: int) -> bool:
        """Return whether the config asks for a save after `step` steps."""
        every = self.config.every > 0 and step > 0 and step % self.config.every == 0
        return every or step in self._marked or step in self.config.keep_at

    def set_best(self, best: BestStep | None) -> None:
        """Never delete the best step of an earlier start, which is complete; None: there is none."""
        self._best = best

    def mark_best(self, best: BestStep) -> None:
        """Make its step due. Once that is sealed, best.json names it and the best one before may be deleted."""
        self._marked[best.step] = best

    def set_aside_after(self, step: int, reason: str) -> None:
        """Rename the complete steps after `step`, from which a run goes on that had been further.

        Args:
            step: The step that the run goes on from.
            reason: Why; stored in the renamed folders.
        """
        later = [number for number in self.complete_steps() if number > step]
        if jax.process_index() == 0 and later:
            self._guard()
            for number in later:
                steps.set_aside(self.folder, number, "replaced", reason)
        consensus.all_processes(True)
        self._sound = {number for number in self._sound if number <= step}
        self._marked = {number: best for number, best in self._marked.items() if number <= step}

    def complete_steps(self) -> list[int]:
        """Return the steps that were committed and sealed, ascending."""
        return list(steps.listing(self.folder).complete)

    @property
    def latest(self) -> int | None:
        """The newest complete step."""
        return max(self.complete_steps(), default=None)

    def save(self, step: int, tree: Any, extra: dict[str, Any] | None = None) -> bool:
        """Start saving a step, after waiting for the save before it; arrays may be donated once this returns.

        Args:
            step: The step.
            tree: Pytree of arrays.
            extra: JSON that is stored with it.

        Returns:
            Whether a save was started. False where the step is saved already, or the disk is full: one error line,
            training continues, and the next interval tries again.

        Raises:
            StorageError: `max_failures` saves in a row have failed (exit code 73).
            LeaseError: The lease is lost (exit code 75).
        """
        # On this thread, while the arrays still exist: they may be donated once this returns.
        leaves = trees.describe(tree)
        # Refuses what is not JSON now rather than in the background.
        stored_extra = json.loads(json.dumps(extra or {}))
        self._settle()
        if consensus.broadcast_from_first(
            int(step in self._sound and steps.is_complete(self.folder / str(step)))
        ):
            return False
        size = trees_by_path.num_bytes(tree)
        problem = self._make_room(step, size) if jax.process_index() == 0 else None
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
        self._failed.pop(step, None)
        self._job = saving.SaveJob(
            self.folder,
            manifests.Manifest(step, {}, leaves, stored_extra, self.run_id, self._start),
            tree,
            guard=self._guard,
            sealed=self._after_seal,
            failed=lambda job, error: self._report_failure(job.step, error, job.size),
        )
        return True

    def wait(self) -> bool:
        """Wait for the save in flight; return whether the last one succeeded. Raises what `save` raises."""
        self._settle()
        return self._failures == 0

    def restore(
        self,
        abstract: Any,
        step: int | None = None,
        *,
        newest: int | None = None,
        optional: Sequence[str] = (),
    ) -> LoadedCheckpoint | None:
        """Restore the newest complete step that verifies.

        A damaged step is renamed to <step>.corrupt-<time>, with one log line, and the next older one is tried. A step
        whose content is sound but that cannot be loaded is left in place.

        Args:
            abstract: The tree wanted, as ShapeDtypeStructs or arrays. Leaves with a sharding are restored as jax
                arrays with it, on any number of devices; the others as numpy.
            step: The only step to try; None: the newest.
            newest: The newest step to try, where `step` is None; None: any.
            optional: Entries of dicts in the dict `abstract`, as "group/entry", that are left out where those of the
                checkpoint are not alike.

        Returns:
            The checkpoint, or None where there never was one.

        Raises:
            CheckpointError: Leaves do not match (with a table), or no step can be used (each with its reason);
                exit code 74.
            DeviceMemoryError: It does not fit the devices (exit code 78).
        """
        if jax.process_index() == 0:
            steps.warn_of_strange(self.folder, steps.listing(self.folder))
        reasons: dict[int, str] = {}
        if step is not None:
            next(reading.candidates(self.folder, step))
        while (number := self._newest(reasons, step, newest)) is not None:
            loaded = self._try(number, abstract, reasons, optional, keep=step is not None)
            if loaded is not None:
                # Known to be good, so that older steps may be deleted while this one stays.
                self._sound.add(number)
                self._adopt(manifests.read(self.folder / str(number)))
                return loaded
        listing = steps.listing(self.folder)
        if consensus.broadcast_from_first(int(bool(reasons or listing.corrupt or listing.incomplete))):
            raise reading.nothing_left(self.folder, reasons)
        return None

    def load_params(self, step: int | str | None = None, *, dtype: Any = None) -> LoadedCheckpoint:
        """Load parameters only, as numpy; see `reading.load_params`."""
        return reading.load_params(self.folder, step, dtype=dtype, verify=self.config.verify)

    def _adopt(self, manifest: manifests.Manifest) -> None:
        """Go on under the ids of a step, where this directory has none: it begins with a copied step."""
        if self._run_id is None:
            self._run_id = manifest.run
        if not self._starts and manifest.start is not None:
            self._starts = (manifest.start,)

    def _newest(self, reasons: dict[int, str], step: int | None, newest: int | None) -> int | None:
        complete = [n for n in self.complete_steps() if n not in reasons and step in (None, n)]
        complete = [n for n in complete if newest is None or n <= newest]
        number = consensus.broadcast_from_first(max(complete, default=-1))
        return None if number < 0 else number

    def _try(
        self, number: int, abstract: Any, reasons: dict[int, str], optional: Sequence[str], keep: bool
    ) -> LoadedCheckpoint | None:
        """Verify and load one step; on failure record the reason, and set a damaged step aside unless `keep`."""
        folder = self.folder / str(number)
        # One process alone hashes while it loads. Several agree before: where one cannot load what is damaged, the
        # others would wait for it in Orbax.
        is_alone = jax.process_count() == 1
        reason, manifest = self._check(folder, "size" if is_alone else self.config.verify)
        if manifest is not None:
            try:
                unverified = None if is_alone else ()
                with manifests.verified_beside(folder, manifest, self.config.verify, unverified):
                    tree = reading.load(folder, manifest, abstract, optional)
                return LoadedCheckpoint(number, tree, manifest.extra)
            except Damaged as error:
                reason = str(error)
                manifest = None
            except (CheckpointError, DeviceMemoryError):
                raise
            except Exception as error:
                reason = reading.cannot_be_loaded(error)
                # An error of loading is blamed on the files only where their hashes differ.
                damage, manifest = self._check(folder, "hash")
                reason = damage or reason
        reasons[number] = reason
        if manifest is None and not keep and jax.process_index() == 0:
            steps.set_aside(self.folder, number, "corrupt", reason)
        elif jax.process_index() == 0:
            log.warning("checkpoint at step %d skipped: %s", number, reason)
        self._event("checkpoint_skipped", step=number, reason=reason)
        consensus.all_processes(True)
        return None

    def _check(self, folder: Place, level: reading.Verify) -> tuple[str, manifests.Manifest | None]:
        """Verify a step, each process a part of its files; return (reason, None) or ("", manifest)."""
        reason = ""
        manifest = None
        try:
            # Process 0 seals the steps, so its ids are the run's; those of the other processes are their own.
            is_first = jax.process_index() == 0
            ids = (self._run_id, self._known_starts) if is_first else (None, ())
            manifest = manifests.read(folder, *ids)
            # Hashing is bound by one core; each process takes its share, dealt out so that large neighbouring
            # files do not fall to one.
            paths = sorted(manifest.files)[jax.process_index() :: jax.process_count()]
            if isinstance(folder, BucketPath):
                # One listing states all of them.
                paths = list(manifest.files) if jax.process_index() == 0 else []
            manifests.verify(folder, manifest, level, paths)
        except Damaged as error:
            reason = str(error)
        if consensus.all_processes(not reason):
            return "", manifest
        return reason or "another process found a damaged file", None

    def _make_room(self, step: int, size: int) -> Exception | None:
        """Check the free space, move what is in the way, and mark the step as unfinished; on process 0."""
        try:
            self._guard()
            free = places.free_bytes(self.folder)
            # Checked before, for a disk that fills up while Orbax writes leaves files of many gigabytes
            # behind.
            if free < FREE_SPACE_FACTOR * size:
                return OSError(f"too little room ({FREE_SPACE_FACTOR} x {size} bytes wanted)")
            steps.make_free(self.folder, step)
            # Before the first byte: a kill at any moment leaves either a complete step or one that `clean`
            # recognises.
            steps.mark_unfinished(self.folder, step)
        except (OSError, LeaseError) as error:
            return error
        return None

    def _settle(self) -> None:
        """Wait for the save in flight and record its outcome, the same on all processes."""
        job = self._job
        self._job = None
        self._remove_failed()
        if job is None:
            return
        job.thread.join()
        if consensus.all_processes(job.error is None):
            self._failures = 0
            self._sound.add(job.step)
            return
        if consensus.broadcast_from_first(int(isinstance(job.error, LeaseError))):
            raise LeaseError(str(job.error or "process 0 lost the lease of the run directory"))
        self._failed[job.step] = job
        self._remove_failed()
        self._count_failure()

    def _remove_failed(self) -> None:
        """Remove what failed saves have left, or their late writers have created since."""
        if jax.process_index() > 0 or not self._failed:
            return
        try:
            self._guard()
        except (LeaseError, OSError):
            # The folder of that number may be another run's by now.
            return
        for job in self._failed.values():
            job.remove()

    def _report_failure(self, step: int, error: BaseException, size: int) -> None:
        """Log one line about a failed save."""
        first = first_line(error) or type(error).__name__
        try:
            free = str(places.free_bytes(self.folder))
        except OSError:
            free = "?"
        log.error(
            "checkpoint at step %d not saved (%s); %s: %d bytes needed, %s free; training goes on",
            step,
            first,
            self.folder,
            size,
            free,
        )
        self._event("checkpoint_failed", step=step, reason=first, needed=size, free=free)

    def _count_failure(self) -> None:
        # A disk may be full for a while; several failures in a row mean that the work since the last save is
        # at risk.
        self._failures += 1
        if self._failures >= self.config.max_failures:
            raise StorageError(f"{self._failures} checkpoints in a row could not be saved to {self.folder}")

    def _after_seal(self, job: saving.SaveJob) -> None:
        """Record a sealed step and delete old ones; on process 0, in the background."""
        self._sound.add(job.step)
        seconds = time.monotonic() - job.began
        self._event("checkpoint_saved", step=job.step, bytes=job.size, seconds=round(seconds, 3))
        best = self._marked.get(job.step)
        if best is not None:
            write_best(self.folder, best)
            self._best = best
            self._event("checkpoint_best", **best._asdict())
        self._retain(job.step)

    def _retain(self, newest: int) -> None:
        """Delete steps that are neither among the newest nor permanent, if a sound step stays; on process 0."""
        complete = self.complete_steps()
        retained = (
            set(complete[-self.config.keep :]) | {newest} | set(complete).intersection(self.config.keep_at)
        )
        if self._best is not None:
            retained |= {self._best.step}.intersection(complete)
        if self.config.keep_every:
            retained |= {step for step in complete if step % self.config.keep_every == 0}
        doomed = [step for step in complete if step not in retained]
        # Deleting is the one thing that cannot be undone: a step that will stay must have been read back or
        # sealed here.
        if doomed and not any(self._still_sound(step) for step in sorted(retained, reverse=True)):
            log.warning(
                "no checkpoint deleted: none of %s that would stay is known to be sound", sorted(retained)
            )
            return
        for step in doomed:
            self._guard()
            steps.delete(self.folder, step)
            # The number may be saved again after a resume from an earlier step.
            self._sound.discard(step)
            self._event("checkpoint_deleted", step=step)

    def _still_sound(self, step: int) -> bool:
        return step in self._sound and manifests.is_sound(self.folder / str(step), "size")
