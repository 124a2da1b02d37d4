"""The folder of checkpoints: complete, unfinished and damaged steps.

    checkpoints/<step>/                  the data, COMMIT (Orbax's last file), MANIFEST (tlx's last file)
    checkpoints/<step>.corrupt-<time>/   set aside because its content is not what was saved; REASON inside
    checkpoints/<step>.replaced-<time>/  set aside because a new save needed its place
    checkpoints/.unfinished-<step>       exists while <step> is being written or deleted

A step is complete when it has both COMMIT and MANIFEST. Steps are renamed, so the file system must be local or NFS;
in a bucket, whose layout bucket_steps describes, they are marked instead.
"""

import logging
import os
import pathlib
import re
import shutil
import time

from tlx.base import files
from tlx.base.place import BucketPath, Place
from tlx.checkpoint import bucket_steps
from tlx.checkpoint.step_files import COMMIT, MANIFEST, REASON, STEP, UNFINISHED, Listing

_ASIDE = re.compile(r"([0-9]+)\.(corrupt|replaced)-.*")

log = logging.getLogger("tlx")


def listing(folder: Place) -> Listing:
    """List a folder of steps; a missing one is empty."""
    if isinstance(folder, BucketPath):
        return bucket_steps.listing(folder)
    complete: list[int] = []
    incomplete: list[int] = []
    corrupt: list[str] = []
    strange: list[str] = []
    entries = list(os.scandir(folder)) if folder.is_dir() else []
    for entry in entries:
        aside = _ASIDE.fullmatch(entry.name)
        if entry.name.startswith("."):
            continue
        elif entry.is_symlink() or not entry.is_dir():
            strange.append(entry.name)
        elif STEP.fullmatch(entry.name):
            steps = complete if is_complete(folder / entry.name) else incomplete
            steps.append(int(entry.name))
        elif aside is None:
            strange.append(entry.name)
        elif aside[2] == "corrupt":
            corrupt.append(entry.name)
    return Listing(
        complete=tuple(sorted(complete)),
        incomplete=tuple(sorted(incomplete)),
        corrupt=tuple(sorted(corrupt)),
        strange=tuple(sorted(strange)),
    )


def is_complete(step_folder: Place) -> bool:
    """Return whether a step was committed and sealed; its content is not read."""
    if isinstance(step_folder, BucketPath):
        return bucket_steps.is_complete(step_folder)
    return all(os.path.isfile(step_folder / name) for name in (COMMIT, MANIFEST))


def mark_unfinished(folder: Place, step: int) -> None:
    """Mark a step before it is written or deleted, so that an unfinished one is known to be tlx's own."""
    if isinstance(folder, BucketPath):
        bucket_steps.mark_unfinished(folder, step)
        return
    with files.atomic_open(folder / f"{UNFINISHED}{step}") as handle:
        handle.write(f"{os.getpid()}\n")


def mark_finished(folder: Place, step: int) -> None:
    """Remove the mark of a step that is sealed, or deleted."""
    if isinstance(folder, BucketPath):
        bucket_steps.mark_finished(folder, step)
        return
    (folder / f"{UNFINISHED}{step}").unlink(missing_ok=True)


def delete(folder: Place, step: int) -> None:
    """Delete a step, COMMIT first, so that it never looks complete while files are missing."""
    if isinstance(folder, BucketPath):
        bucket_steps.delete(folder, step)
        return
    target = folder / str(step)
    mark_unfinished(folder, step)
    (target / COMMIT).unlink(missing_ok=True)
    if target.is_dir():
        # The loss of COMMIT reaches the disk before the data goes, so that a crash in between leaves no step
        # that looks complete.
        files.sync_folder(target)
        shutil.rmtree(target)
    mark_finished(folder, step)


def clean(folder: Place) -> list[int]:
    """Remove what killed saves and deletions have left, and return these steps; for the lease holder only."""
    removed = bucket_steps.clean(folder) if isinstance(folder, BucketPath) else _clean(folder)
    if removed:
        log.warning("removed unfinished checkpoints of a run that was stopped: steps %s", removed)
    return removed


def _clean(folder: pathlib.Path) -> list[int]:
    removed = []
    for marker in sorted(folder.glob(UNFINISHED + "*")):
        name = marker.name.removeprefix(UNFINISHED)
        # Only numbers are steps: nothing else is ever removed here.
        if STEP.fullmatch(name) is None:
            continue
        target = folder / name
        if not target.is_symlink() and target.is_dir() and not is_complete(target):
            shutil.rmtree(target)
            removed.append(int(name))
        marker.unlink()
    # Temporary files of atomic writes that were killed.
    for leftover in folder.glob(f".{UNFINISHED}*"):
        leftover.unlink(missing_ok=True)
    return removed


def set_aside(folder: Place, step: int, kind: str, reason: str) -> str:
    """Rename a step to `<step>.<kind>-<time>`, or mark it in a bucket, and log one line.

    Args:
        folder: The folder of steps.
        step: The step.
        kind: "corrupt" or "replaced".
        reason: Why; stored with it.

    Returns:
        The new name.
    """
    if isinstance(folder, BucketPath):
        name = bucket_steps.set_aside(folder, step, kind, reason)
    else:
        name = _rename(folder, step, kind, reason)
    log.warning("checkpoint at step %d set aside as %s: %s", step, name, reason)
    return name


def make_free(folder: Place, step: int) -> None:
    """Move what is in the way of a new save of a step."""
    if isinstance(folder, BucketPath):
        bucket_steps.make_free(folder, step)
    elif os.path.lexists(folder / str(step)):
        set_aside(folder, step, "replaced", "in the way of a new save of this step")


def _rename(folder: pathlib.Path, step: int, kind: str, reason: str) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%S")
    target = folder / f"{step}.{kind}-{stamp}"
    number = 1
    # Two steps may be set aside within a second, and neither replaces the other.
    while os.path.lexists(target):
        target = folder / f"{step}.{kind}-{stamp}.{number}"
        number += 1
    os.rename(folder / str(step), target)
    files.sync_folder(folder)
    if target.is_dir() and not target.is_symlink():
        # Inside the folder, where somebody who looks at it months later finds it.
        (target / REASON).write_text(reason + "\n", encoding="utf-8")
    return target.name


def reason_of(folder: Place, name: str) -> str:
    """Return why a step was set aside."""
    if isinstance(folder, BucketPath):
        return bucket_steps.reason_of(folder, name)
    path = folder / name / REASON
    return path.read_text(encoding="utf-8").strip() if path.is_file() else "set aside earlier"


def warn_of_strange(folder: Place, entries: Listing) -> None:
    """Log one line about everything that is neither a complete step nor tlx's."""
    names = [*entries.strange, *(f"{step} (not complete)" for step in entries.incomplete)]
    if names:
        log.warning("ignored in %s: %s", folder, ", ".join(names))
