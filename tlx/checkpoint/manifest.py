"""The manifest that seals a step: size and sha256 of every file, shape and dtype of every leaf, and JSON.

Orbax restores a flipped bit as a wrong weight without an error; the manifest detects it. Each process hashes the
files that it wrote. Process 0 merges these parts and writes MANIFEST, which also has its own hash.

Of a step in a bucket nothing is downloaded to be hashed. Process 0 lists the objects, and the manifest keeps what the
store states of each: its size, its checksum (crc32c on gs, the ETag on s3) and its generation. Reading compares them
with what the store states then. That finds objects that were changed, replaced or lost; an upload that went wrong it
does not find.
"""

import contextlib
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any, Literal, NamedTuple

from tlx.base import files
from tlx.base import place as places
from tlx.base.place import BucketPath, Place
from tlx.checkpoint.bucket_steps import SET_ASIDE
from tlx.checkpoint.step_files import MANIFEST

FORMAT = 1
MAX_BYTES = 256 << 20
# Most dims of an array in numpy.
MAX_DIMS = 64
# Files that are hashed at once: a core hashes about 1 GB/s, and a disk reads several times as much.
HASHING_THREADS = 8
# Files below this are hashed before anything is loaded: the metadata, which says what is loaded.
LARGE_FILE = 1 << 20
_PART = "tlx_part.{}.json"
_OWNER = re.compile(r"(?:^|/)(?:ocdbt\.)?process_(\d+)(?:/|$)")
# Folders and files in a part that Orbax names after the process that writes them.
_OWNED = ("ocdbt.process_{}", "process_{}", "array_metadatas/process_{}")


class Damaged(Exception):
    """The content of a step is not what was saved; the message says how it differs."""


class LeafInfo(NamedTuple):
    """Description of a stored array."""

    shape: tuple[int, ...]
    """Its shape."""
    dtype: str
    """Name of its dtype."""


class Manifest(NamedTuple):
    """The content of a step when it was sealed."""

    step: int
    """Its number."""
    files: dict[str, dict[str, Any]]
    """By path, {"size": bytes, "sha256": hex}; in a bucket {"size": bytes, "checksum": text, "generation": text}."""
    leaves: dict[str, LeafInfo]
    """The arrays by path."""
    extra: dict[str, Any]
    """JSON of the caller."""
    run: str | None = None
    """Id of the run that saved it; None where it was saved before runs had ids, or by no run."""
    start: str | None = None
    """Id of the start of the run that saved it; None where it was saved before starts had ids."""


def own_files(folder: Place, process: int, count: int, parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return sizes and hashes of the files that a process wrote.

    Lists the folders of this process alone, whatever the number of processes: 1,024 that walked the whole step
    would make a million listings. Process 0 also has the files that are no other's.

    Args:
        folder: Folder of the step.
        process: Index of the process.
        count: Number of processes.
        parts: Folders in that of the step which Orbax writes arrays to.

    Returns:
        By path, as Manifest.files; of a bucket process 0 returns all of them.
    """
    if isinstance(folder, BucketPath):
        return _stated(folder) if process == 0 else {}
    if process == 0:
        paths = [path for path in _walk(folder, folder, count) if _owner(path, count) == 0]
    else:
        own = [folder / part / name.format(process) for part in parts for name in _OWNED]
        paths = [path for root in own for path in _walk(root, folder, count)]
    paths = sorted(paths)
    hashes = _in_threads(files.sha256_file, [folder / path for path in paths])
    return {
        path: {"size": (folder / path).stat().st_size, "sha256": digest}
        for path, digest in zip(paths, hashes, strict=True)
    }


def write_part(folder: Place, process: int, value: Mapping[str, Any]) -> None:
    """Hand a process' part to process 0.

    Args:
        folder: Folder of the step.
        process: Index of the process.
        value: {"files": ...} or {"error": text}.
    """
    files.write_json(folder / _PART.format(process), value)


def gather_parts(folder: Place, count: int, timeout: float) -> dict[str, dict[str, Any]]:
    """Wait for the parts of processes 1 to count - 1, and remove them; called on process 0.

    Args:
        folder: Folder of the step.
        count: Number of processes.
        timeout: Seconds to wait.

    Returns:
        The files of these processes.

    Raises:
        OSError: A process failed, or its part does not come in time.
    """
    deadline = time.monotonic() + timeout
    merged: dict[str, dict[str, Any]] = {}
    for process in range(1, count):
        path = folder / _PART.format(process)
        while not path.exists():
            if time.monotonic() > deadline:
                raise OSError(f"process {process} did not report its files within {timeout:.0f} s")
            # A file and not a collective: this runs on a background thread, beside the main thread's
            # collectives.
            time.sleep(0.05)
        part = files.read_json(path)
        if "error" in part:
            raise OSError(f"process {process}: {part['error']}")
        merged.update(part["files"])
        # Parts are tlx's own and of no further use; the manifest lists every file that remains.
        path.unlink()
    return merged


def seal(folder: Place, manifest: Manifest) -> None:
    """Write MANIFEST, which makes the step complete."""
    body = {
        "format": FORMAT,
        "step": manifest.step,
        "extra": manifest.extra,
        "leaves": {path: list(leaf) for path, leaf in manifest.leaves.items()},
        "files": dict(sorted(manifest.files.items())),
    }
    if manifest.run is not None:
        body["run"] = manifest.run
    if manifest.start is not None:
        body["start"] = manifest.start
    # Written last and atomically: the manifest's existence is what makes the step complete.
    files.write_json(folder / MANIFEST, {"sha256": files.sha256_json(body), **body})


def read(folder: Place, run: str | None = None, starts: Collection[str] = ()) -> Manifest:
    """Read the manifest of a step; Damaged where it cannot be trusted.

    Args:
        folder: Folder of the step, which is named by its number.
        run: Id of the run that the step must be of, where the manifest says of which it is; None: of any.
        starts: Ids of the starts of that run in this directory, one of which must have saved the step, where the
            manifest says which has; (): any.

    Returns:
        The manifest.
    """
    path = folder / MANIFEST
    try:
        # A checkpoint may come from anybody: its size is looked at before it is parsed.
        size = path.stat().st_size if isinstance(path, pathlib.Path) else path.size()
        if size > MAX_BYTES:
            raise Damaged(f"{MANIFEST} is larger than {MAX_BYTES} bytes")
        manifest = parse(path.read_bytes())
    except OSError as error:
        raise Damaged(f"{MANIFEST} cannot be read: {error.strerror}") from error
    if folder.name.isdecimal() and int(folder.name) != manifest.step:
        raise Damaged(f"it is step {manifest.step} under the number {folder.name}")
    if run is not None and manifest.run not in (None, run):
        raise Damaged(
            f"it is a step of another run ({manifest.run}), not of this one ({run}); a new run starts from that "
            "one's model with --from=DIR"
        )
    if starts and manifest.start is not None and manifest.start not in starts:
        raise Damaged(
            f"another copy of this run's directory has saved it (start {manifest.start}, which run.json does not "
            "list); the run goes on there, or here with that copy's run.json too"
        )
    return manifest


def parse(data: bytes) -> Manifest:
    """Return the manifest that the bytes of a file hold; Damaged where they are not what was sealed."""
    try:
        body = json.loads(data)
        claimed = body.pop("sha256")
        if claimed != files.sha256_json(body):
            raise Damaged(f"{MANIFEST} does not have the hash it states")
        if body["format"] != FORMAT:
            raise Damaged(f"{MANIFEST} has format {body['format']}, this tlx reads {FORMAT}")
        leaves = {name: LeafInfo(tuple(shape), dtype) for name, (shape, dtype) in body["leaves"].items()}
        manifest = Manifest(
            body["step"], body["files"], leaves, body["extra"], body.get("run"), body.get("start")
        )
    # Whatever a damaged or hostile file makes of the structure, the caller tries the next older step.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} cannot be read: {type(error).__name__}: {error}") from error
    if not _is_legal(manifest):
        raise Damaged(f"{MANIFEST} has values that none has: sizes, shapes or names")
    return manifest


def verify(
    folder: Place,
    manifest: Manifest,
    level: Literal["hash", "size"],
    paths: Iterable[str] | None = None,
) -> None:
    """Compare files with the manifest.

    Args:
        folder: Folder of the step.
        manifest: Its manifest.
        level: Whether "hash" or only "size" of a file is compared; in a bucket "hash" is what the store states.
        paths: The files; None: all.

    Raises:
        Damaged: A file differs; the message names the first one.
    """
    if isinstance(folder, BucketPath):
        _verify_stated(folder, manifest, level, paths)
        return
    paths = list(manifest.files if paths is None else paths)
    # A link could make files from outside the checkpoint look like a part of it.
    _refuse_links(folder, paths)
    # Cheap, and finds the usual damage (cut or empty files) before gigabytes are hashed.
    for path in paths:
        _refuse_escape(folder, path)
        try:
            size = (folder / path).stat().st_size
        except OSError as error:
            raise Damaged(f"{path} is missing ({error.strerror})") from error
        wanted = manifest.files[path]["size"]
        if size != wanted:
            raise Damaged(f"{path} has {size} bytes, {wanted} were saved")
    if level != "hash":
        return
    hashes = _in_threads(_sha256, [folder / path for path in paths])
    for path, digest in zip(paths, hashes, strict=True):
        if digest != manifest.files[path]["sha256"]:
            raise Damaged(f"{path} is not what was saved (sha256 differs)")


@contextlib.contextmanager
def verified_beside(
    folder: Place,
    manifest: Manifest,
    level: Literal["hash", "size"],
    paths: Iterable[str] | None = None,
) -> Iterator[None]:
    """Verify files, and hash those of arrays while the body loads them.

    Sizes are compared and small files hashed before the body begins. The end waits for the large ones: nothing that
    the body has loaded may be used before. Of a step in a bucket all is compared before.

    Args:
        folder: Folder of the step.
        manifest: Its manifest.
        level: As verify's.
        paths: The files; None: all.

    Raises:
        Damaged: A file differs, in place of any error that the body had of it.
    """
    paths = list(manifest.files if paths is None else paths)
    if isinstance(folder, BucketPath) or level == "size":
        verify(folder, manifest, level, paths)
        yield
        return
    verify(folder, manifest, "size", paths)
    is_large = {path: manifest.files[path]["size"] >= LARGE_FILE for path in paths}
    verify(folder, manifest, "hash", [path for path in paths if not is_large[path]])
    large = [path for path in paths if is_large[path]]
    with ThreadPool(1) as pool:
        hashing = pool.apply_async(verify, (folder, manifest, "hash", large))
        try:
            yield
        finally:
            hashing.get()


def is_sound(folder: Place, level: Literal["hash", "size"]) -> bool:
    """Return whether a step has a manifest and its files agree with it."""
    try:
        verify(folder, read(folder), level)
    except Damaged:
        return False
    return True


def _is_legal(manifest: Manifest) -> bool:
    """Return whether all values are of the types and in the ranges that a manifest has.

    The hash in a manifest finds damage; a hostile one has the right hash.
    """

    def is_size(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**63

    files_legal = isinstance(manifest.files, dict) and all(
        isinstance(entry, dict)
        and is_size(entry.get("size"))
        and isinstance(entry.get("sha256", entry.get("checksum")), str)
        and isinstance(entry.get("generation", ""), str)
        for entry in manifest.files.values()
    )
    leaves_legal = all(
        isinstance(leaf.dtype, str) and len(leaf.shape) <= MAX_DIMS and all(map(is_size, leaf.shape))
        for leaf in manifest.leaves.values()
    )
    named = all(isinstance(name, str | None) for name in (manifest.run, manifest.start))
    named = named and isinstance(manifest.extra, dict)
    return is_size(manifest.step) and files_legal and leaves_legal and named


def _stated(folder: BucketPath) -> dict[str, dict[str, Any]]:
    """Return what the store states of all objects of a step, by path."""
    return {
        path: {"size": stated.size, "checksum": stated.checksum, "generation": stated.generation}
        for path, stated in places.list_files(folder).items()
        if not _is_own(path)
    }


def _verify_stated(
    folder: BucketPath,
    manifest: Manifest,
    level: Literal["hash", "size"],
    paths: Iterable[str] | None,
) -> None:
    wanted_paths = list(manifest.files if paths is None else paths)
    if not wanted_paths:
        return
    try:
        now = _stated(folder)
    except OSError as error:
        raise Damaged(f"its objects cannot be listed ({error.strerror})") from error
    for path in wanted_paths:
        wanted = manifest.files[path]
        stated = now.get(path)
        if stated is None:
            raise Damaged(f"{path} is missing")
        if stated["size"] != wanted["size"]:
            raise Damaged(f"{path} has {stated['size']} bytes, {wanted['size']} were saved")
        if level == "hash" and stated != wanted:
            raise Damaged(f"{path} is not what was saved (the store states another checksum or generation)")


def _sha256(path: pathlib.Path) -> str:
    try:
        return files.sha256_file(path)
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error


def _in_threads(hash_file: Callable[[pathlib.Path], str], paths: Sequence[pathlib.Path]) -> list[str]:
    """Return the hash of each file; hashing needs no lock of the interpreter."""
    # Not concurrent.futures, for whose queued work the end of the interpreter waits.
    with ThreadPool(max(1, min(HASHING_THREADS, len(paths)))) as pool:
        return pool.map(hash_file, paths, chunksize=1)


def _walk(root: pathlib.Path, folder: pathlib.Path, count: int) -> list[str]:
    """Return the paths of all files below `root`, except those of tlx and, below `folder`, those of other processes.

    Args:
        root: Where the walk begins: a folder, a file, or what does not exist.
        folder: Folder of the step, which paths are relative to.
        count: Number of processes.

    Returns:
        Paths with "/" between folders.
    """
    if root.is_file():
        return [root.relative_to(folder).as_posix()]
    paths = []
    for base, folders, names in os.walk(root):
        if root == folder:
            # Not entered: each of the others lists its own.
            folders[:] = [name for name in folders if _owner(name, count) == 0]
        for name in names:
            path = (pathlib.Path(base) / name).relative_to(folder).as_posix()
            if not _is_own(path):
                paths.append(path)
    return paths


def _is_own(path: str) -> bool:
    """Return whether a file is tlx's, and not part of what was saved."""
    return path.lstrip(".").startswith(("tlx_part.", MANIFEST, SET_ASIDE))


def _owner(path: str, count: int) -> int:
    """Return the process that wrote a file: Orbax names a folder for each; process 0 writes all else."""
    match = _OWNER.search(path)
    return int(match[1]) if match and int(match[1]) < count else 0


def _refuse_escape(folder: pathlib.Path, path: str) -> None:
    pure = pathlib.PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise Damaged(f"{path!r} leads out of the checkpoint")


def _refuse_links(folder: pathlib.Path, paths: Iterable[str]) -> None:
    """Raise Damaged for a link among these files, in their folders, or on the way to them.

    Of several processes each looks at the folders of its own share of the files, so that none lists all.
    """
    nearest = {str(pathlib.PurePosixPath(path).parent) for path in paths}
    above = {str(parent) for path in nearest for parent in pathlib.PurePosixPath(path).parents}
    for name in sorted(above - nearest - {"."}):
        if (folder / name).is_symlink():
            raise Damaged(f"{name} is a link")
    for name in sorted(nearest):
        if name != "." and (folder / name).is_symlink():
            raise Damaged(f"{name} is a link")
        if not (folder / name).is_dir():
            continue  # its files are missing, which is said next
        for entry in os.scandir(folder / name):
            if entry.is_symlink():
                raise Damaged(f"{os.path.relpath(entry.path, folder)} is a link")
