"""Finding and reading steps: verified before a single weight is used. Nothing here writes."""

import logging
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import tree as trees_by_path
from tlx.base.errors import CheckpointError, DeviceMemoryError
from tlx.base.memory import machine_bytes
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint import mismatch, steps, store, trees
from tlx.checkpoint.manifest import Damaged, Manifest

log = logging.getLogger("tlx")
Verify = Literal["hash", "size"]


class LoadedCheckpoint(NamedTuple):
    """A step that was read: its number, the arrays, the JSON that was saved with them."""

    step: int
    tree: Any
    extra: dict[str, Any]


def steps_folder(path: str | os.PathLike) -> pathlib.Path:
    """The folder of steps that `path` means: a run directory, its `checkpoints`, or one step of them."""
    path = pathlib.Path(path).absolute()
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory")
    if steps.is_complete(path):
        return path.parent
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def load_params(
    path: str | os.PathLike,
    step: int | None = None,
    *,
    dtype: Any = None,
    verify: Verify = "hash",
) -> LoadedCheckpoint:
    """The `params` subtree of a step as nested dicts of numpy arrays, whatever devices wrote it.

    path: run directory, checkpoints folder or step folder. step: None for the newest that verifies.
    dtype: what floating-point leaves are cast to (a name or a dtype). Reads and verifies no other leaf's
    data, takes no lease, changes nothing on disk, and works inside a running event loop.
    Raises CheckpointError when there is no such step or none can be trusted, listing each with its reason.
    """
    folder = steps_folder(path)
    if step is None and steps.is_complete(pathlib.Path(path).absolute()):
        step = _number(pathlib.Path(path))
    reasons = {}
    for number in candidates(folder, step):
        try:
            found = manifests.read(folder / str(number))
            tree = _read_params(folder / str(number), found, dtype, verify)
            return LoadedCheckpoint(number, tree, found.extra)
        except Damaged as error:
            log.warning("checkpoint at step %d skipped: %s", number, error)
            reasons[number] = str(error)
    raise nothing_left(folder, reasons)


def candidates(folder: pathlib.Path, step: int | None) -> Iterator[int]:
    """Complete steps from the newest, or only `step`; CheckpointError where that one is not there."""
    complete = steps.listing(folder).complete
    if step is None:
        return iter(reversed(complete))
    if step not in complete:
        known = ", ".join(map(str, complete)) or "none"
        raise CheckpointError(f"no complete checkpoint at step {step} in {folder}; complete: {known}")
    return iter((step,))


def nothing_left(folder: pathlib.Path, reasons: dict[int, str]) -> CheckpointError:
    """The error that lists every step, with why it cannot be used."""
    found = steps.listing(folder)
    lines = [f"  step {number}: {reason}" for number, reason in sorted(reasons.items(), reverse=True)]
    lines += [
        f"  step {number}: not complete (no {steps.COMMIT} or no {steps.MANIFEST})"
        for number in found.incomplete
    ]
    known = {f"{number}.corrupt-" for number in reasons}
    lines += [
        f"  {name}: {steps.reason_of(folder, name)}"
        for name in found.corrupt
        if not name.startswith(tuple(known))
    ]
    what = "\n".join(lines) or "  no checkpoint is there"
    return CheckpointError(
        f"no checkpoint in {folder} can be read:\n{what}\nto start over, move that folder away or delete it"
    )


def load(folder: pathlib.Path, found: Manifest, abstract: Any) -> Any:
    """The tree of a verified step in the structure and shardings of `abstract`.

    Raises CheckpointError with a table of all leaves that do not match, DeviceMemoryError when it does not
    fit.
    """
    wanted = trees.flat(abstract)
    differences = mismatch.table(found.leaves, wanted)
    if differences:
        raise CheckpointError(f"the checkpoint {folder} does not match the model:\n{differences}")
    try:
        return trees.join(abstract, store.load(folder, trees.split(abstract)))
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            needed = trees_by_path.num_bytes(abstract)
            raise DeviceMemoryError(
                f"{folder} ({needed} bytes of arrays) does not fit: {str(error).splitlines()[0]}"
            ) from error
        raise


def _read_params(folder: pathlib.Path, found: Manifest, dtype: Any, verify: Verify) -> dict[str, Any]:
    leaves = {path: leaf for path, leaf in found.leaves.items() if trees.part_of(path) == trees.PARAMS}
    if not leaves:
        raise CheckpointError(f"{folder} holds no parameters")
    _refuse_too_large(folder, leaves)
    part = [path for path in found.files if path.startswith(f"{trees.PARAMS}/") or "/" not in path]
    manifests.verify(folder, found, verify, part)
    abstract = {
        path.removeprefix(f"{trees.PARAMS}/"): jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(leaf.dtype))
        for path, leaf in leaves.items()
    }
    try:
        nested = store.load(folder, {trees.PARAMS: trees_by_path.unflatten(abstract)})[trees.PARAMS]
    except Exception as error:
        raise Damaged(f"cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    for path, leaf in trees_by_path.flatten(nested).items():
        if leaf.shape != abstract[path].shape or leaf.dtype != abstract[path].dtype:
            raise Damaged(f"params/{path} is {leaf.dtype}{leaf.shape}, the manifest says {abstract[path]}")
    return jax.tree.map(lambda leaf: _cast(leaf, dtype), nested)


def _cast(leaf: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype is None or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return leaf.astype(jnp.dtype(dtype), copy=False)


def _refuse_too_large(folder: pathlib.Path, leaves: dict[str, manifests.LeafInfo]) -> None:
    """A manifest may ask for any size: nothing is allocated before it is known to fit this machine."""
    try:
        needed = sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in leaves.values())
    except TypeError as error:
        raise Damaged(f"{steps.MANIFEST} names an unknown dtype: {error}") from error
    memory = machine_bytes()
    if needed > memory:
        raise CheckpointError(f"the parameters in {folder} need {needed} bytes, this machine has {memory}")


def _number(path: pathlib.Path) -> int:
    try:
        return int(path.absolute().name)
    except ValueError as error:
        raise CheckpointError(f"{path} is a checkpoint whose folder is not named by its step") from error
