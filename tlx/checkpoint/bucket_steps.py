"""The steps of a run in a bucket, where nothing is renamed: `steps` describes the objects and calls these functions.

    checkpoints/<step>/                      the data, COMMIT (Orbax's last object), MANIFEST (tlx's last object)
    checkpoints/<step>/tlx_set_aside.json    the step no longer counts: {"kind", "time", "reason"}
    checkpoints/.unfinished-<step>           exists while <step> is being written or deleted

A step that was set aside keeps its objects until its number is saved again, which deletes them first.
"""

import json
import logging
import os
import re
import time

from tlx.base import place as places
from tlx.base.place import BucketPath
from tlx.checkpoint.step_files import COMMIT, MANIFEST, STEP, UNFINISHED, Listing

SET_ASIDE = "tlx_set_aside.json"
_NAME = re.compile(r"([0-9]+)\.(corrupt|replaced)-.*")

log = logging.getLogger("tlx")


def listing(folder: BucketPath) -> Listing:
    """List the steps of a bucket: one listing, and one for each step."""
    found = Listing((), (), (), ())
    names = folder.store.list_names(folder.prefix)
    steps = sorted(int(name) for name, goes_on in names.items() if goes_on and STEP.fullmatch(name))
    for step in steps:
        inside = (folder / str(step)).store.list_names((folder / str(step)).prefix)
        if SET_ASIDE in inside:
            name = _set_aside_name(folder, step)
            corrupt = (name,) if _NAME.fullmatch(name) and ".corrupt-" in name else ()
            found = found._replace(corrupt=(*found.corrupt, *corrupt))
        elif COMMIT in inside and MANIFEST in inside:
            found = found._replace(complete=(*found.complete, step))
        elif places.list_files(folder / str(step)):
            # Some stores list folders that are empty, once there were objects in them.
            found = found._replace(incomplete=(*found.incomplete, step))
    known = {str(step) for step in steps}
    strange = (name for name in names if name not in known and not name.startswith("."))
    return found._replace(strange=tuple(sorted(strange)))


def is_complete(step_folder: BucketPath) -> bool:
    """Return whether a step was committed and sealed, and not set aside since."""
    is_sealed = all((step_folder / name).is_file() for name in (COMMIT, MANIFEST))
    return is_sealed and not (step_folder / SET_ASIDE).is_file()


def mark_unfinished(folder: BucketPath, step: int) -> None:
    """Mark a step before it is written or deleted."""
    places.write(folder / f"{UNFINISHED}{step}", f"{os.getpid()}\n".encode())


def mark_finished(folder: BucketPath, step: int) -> None:
    """Remove the mark of a step that is sealed, or deleted."""
    (folder / f"{UNFINISHED}{step}").unlink(missing_ok=True)


def delete(folder: BucketPath, step: int) -> None:
    """Delete a step, COMMIT first, so that it never looks complete while objects are missing."""
    mark_unfinished(folder, step)
    (folder / str(step) / COMMIT).unlink(missing_ok=True)
    places.remove_tree(folder / str(step))
    mark_finished(folder, step)


def clean(folder: BucketPath) -> list[int]:
    """Remove what killed saves and deletions have left, and return these steps; for the lease holder only."""
    removed = []
    for name in folder.store.list_names(folder.prefix):
        number = name.removeprefix(UNFINISHED)
        if not name.startswith(UNFINISHED) or STEP.fullmatch(number) is None:
            continue
        target = folder / number
        if target.is_dir() and not is_complete(target):
            places.remove_tree(target)
            removed.append(int(number))
        (folder / name).unlink(missing_ok=True)
    return sorted(removed)


def set_aside(folder: BucketPath, step: int, kind: str, reason: str) -> str:
    """Mark a step as one that no longer counts.

    Args:
        folder: The folder of steps.
        step: The step.
        kind: "corrupt" or "replaced".
        reason: Why; stored in the marker.

    Returns:
        The name by which listings know it.
    """
    marker = {"kind": kind, "time": time.strftime("%Y%m%dT%H%M%S"), "reason": reason}
    places.write(folder / str(step) / SET_ASIDE, json.dumps(marker).encode())
    return _set_aside_name(folder, step)


def make_free(folder: BucketPath, step: int) -> None:
    """Delete what a new save of a step would overwrite in part: an older attempt, or a step that was set aside."""
    target = folder / str(step)
    if not places.list_files(target):
        return
    log.warning("deleted %s, which is in the way of a new save of this step", target)
    mark_unfinished(folder, step)
    # The manifest first: what is deleted half must not be taken for a step.
    (target / MANIFEST).unlink(missing_ok=True)
    places.remove_tree(target)


def reason_of(folder: BucketPath, name: str) -> str:
    """Return why a step was set aside, by the name that listings know it by."""
    return str(_marker(folder, int(name.partition(".")[0])).get("reason", "set aside earlier"))


def _set_aside_name(folder: BucketPath, step: int) -> str:
    marker = _marker(folder, step)
    return f"{step}.{marker.get('kind', 'corrupt')}-{marker.get('time', 'unknown')}"


def _marker(folder: BucketPath, step: int) -> dict[str, object]:
    try:
        value = json.loads((folder / str(step) / SET_ASIDE).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
