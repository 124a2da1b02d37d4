"""The folder of steps: which are complete, which were left half done, which are damaged.

    checkpoints/<step>/                  the data, COMMIT (Orbax's last file), MANIFEST (tlx's last file)
    checkpoints/<step>.corrupt-<time>/   set aside because its content is not what was saved; REASON inside
    checkpoints/<step>.replaced-<time>/  set aside because a new save needed its place
    checkpoints/.unfinished-<step>       there while <step> is being written or deleted

A step is complete when COMMIT and MANIFEST are both there. Local and network file systems (rename is used).
"""

import logging
import os
import pathlib
import re
import shutil
import time
from typing import NamedTuple

from tlx.base import files

COMMIT = "commit_success.txt"
MANIFEST = "tlx_manifest.json"
REASON = "tlx_reason.txt"
_UNFINISHED = ".unfinished-"
_STEP = re.compile(r"0|[1-9][0-9]{0,17}")
_ASIDE = re.compile(r"([0-9]+)\.(corrupt|replaced)-.*")

log = logging.getLogger("tlx")


class Listing(NamedTuple):
    """What lies in a folder of steps; all ascending."""

    complete: tuple[int, ...]
    incomplete: tuple[int, ...]  # numbered, but without COMMIT or MANIFEST
    corrupt: tuple[str, ...]  # names of quarantined steps
    strange: tuple[str, ...]  # anything else that is not tlx's: files, links, other names


def listing(folder: pathlib.Path) -> Listing:
    """Reads the folder; a missing one is empty."""
    complete, incomplete, corrupt, strange = [], [], [], []
    entries = list(os.scandir(folder)) if folder.is_dir() else []
    for entry in entries:
        aside = _ASIDE.fullmatch(entry.name)
        if entry.name.startswith("."):
            continue
        elif entry.is_symlink() or not entry.is_dir():
            strange.append(entry.name)
        elif _STEP.fullmatch(entry.name):
            (complete if is_complete(folder / entry.name) else incomplete).append(int(entry.name))
        elif aside is None:
            strange.append(entry.name)
        elif aside[2] == "corrupt":
            corrupt.append(entry.name)
    return Listing(*(tuple(sorted(part)) for part in (complete, incomplete, corrupt, strange)))


def is_complete(step_folder: pathlib.Path) -> bool:
    """Whether the step was committed and sealed (its content is not looked at)."""
    return all(os.path.isfile(step_folder / name) for name in (COMMIT, MANIFEST))


def mark_unfinished(folder: pathlib.Path, step: int) -> None:
    """Before the first byte of a save and before a deletion: what is found half done was tlx's own work."""
    with files.atomic_open(folder / f"{_UNFINISHED}{step}") as handle:
        handle.write(f"{os.getpid()}\n")


def mark_finished(folder: pathlib.Path, step: int) -> None:
    """After sealing, or after the last byte is deleted."""
    (folder / f"{_UNFINISHED}{step}").unlink(missing_ok=True)


def delete(folder: pathlib.Path, step: int) -> None:
    """Removes a step, COMMIT first, so that no moment shows a complete step with files missing."""
    target = folder / str(step)
    mark_unfinished(folder, step)
    (target / COMMIT).unlink(missing_ok=True)
    if target.is_dir():
        files.sync_folder(target)
        shutil.rmtree(target)
    mark_finished(folder, step)


def clean(folder: pathlib.Path) -> list[int]:
    """Removes what killed saves and deletions left behind; returns those steps. For the lease holder."""
    removed = []
    for marker in sorted(folder.glob(_UNFINISHED + "*")):
        name = marker.name.removeprefix(_UNFINISHED)
        if _STEP.fullmatch(name) is None:
            continue
        target = folder / name
        if not target.is_symlink() and target.is_dir() and not is_complete(target):
            shutil.rmtree(target)
            removed.append(int(name))
        marker.unlink()
    for leftover in folder.glob(f".{_UNFINISHED}*"):  # of an atomic write that was killed
        leftover.unlink(missing_ok=True)
    if removed:
        log.warning("removed unfinished checkpoints of a run that was stopped: steps %s", removed)
    return removed


def set_aside(folder: pathlib.Path, step: int, kind: str, reason: str) -> pathlib.Path:
    """Renames a step to `<step>.<kind>-<time>`, kind "corrupt" or "replaced", and says so in one line."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    target = folder / f"{step}.{kind}-{stamp}"
    number = 1
    while os.path.lexists(target):
        target = folder / f"{step}.{kind}-{stamp}.{number}"
        number += 1
    os.rename(folder / str(step), target)
    files.sync_folder(folder)
    if target.is_dir() and not target.is_symlink():
        (target / REASON).write_text(reason + "\n", encoding="utf-8")
    log.warning("checkpoint at step %d set aside as %s: %s", step, target.name, reason)
    return target


def reason_of(folder: pathlib.Path, name: str) -> str:
    """Why a step was set aside."""
    path = folder / name / REASON
    return path.read_text(encoding="utf-8").strip() if path.is_file() else "set aside earlier"


def warn_of_strange(folder: pathlib.Path, found: Listing) -> None:
    """One line for everything that is neither a step nor tlx's."""
    names = [*found.strange, *(f"{step} (not complete)" for step in found.incomplete)]
    if names:
        log.warning("ignored in %s: %s", folder, ", ".join(names))
