"""Finding, verifying and reading steps. Nothing here writes."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import place as places
from tlx.base import tree as trees_by_path
from tlx.base.errors import CheckpointError, ConfigError, DeviceMemoryError, first_line
from tlx.base.memory import machine_bytes
from tlx.base.place import BucketPath, Place
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint import mismatch, replicas, steps, store, trees
from tlx.checkpoint.best import resolve_step
from tlx.checkpoint.manifest import Damaged, Manifest

log = logging.getLogger("tlx")
Verify = Literal["hash", "size"]


class LoadedCheckpoint(NamedTuple):
    """A checkpoint that was read."""

    step: int
    """Its step."""
    tree: Any
    """Its arrays."""
    extra: dict[str, Any]
    """The JSON that was saved with them."""


@dataclasses.dataclass(frozen=True)
class StoredParam:
    """A parameter of a verified step, which is read on demand."""

    folder: Place
    """Folder of the step."""
    part: str
    """Part of the checkpoint that holds it."""
    path: str
    """Its path in that part."""
    stored: jax.ShapeDtypeStruct
    """Its shape and dtype in the files."""
    dtype: np.dtype
    """Dtype that it is cast to when it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.stored.shape

    def read(self) -> np.ndarray:
        """Read the parameter; CheckpointError where that fails."""
        try:
            array = store.load_leaf(self.folder, self.part, self.path, self.stored)
            _check_alike(self.path, self.part, array, self.stored)
        except Exception as error:
            raise CheckpointError(f"{self.folder}: {cannot_be_loaded(error)}") from error
        return array.astype(self.dtype, copy=False)


def steps_folder(path: str | os.PathLike | BucketPath) -> Place:
    """Return the folder of steps of a path: a run directory, its `checkpoints`, or one step of them.

    Raises CheckpointError where there is no such directory.
    """
    path = places.parse(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory")
    if steps.is_complete(path):
        return path.parent
    if (path / "checkpoints").is_dir():
        return path / "checkpoints"
    return path


def load_params(
    path: str | os.PathLike | BucketPath,
    step: int | str | None = None,
    *,
    dtype: Any = None,
    verify: Verify = "hash",
    run: str | None = None,
    starts: Sequence[str] = (),
    params: str = trees.PARAMS,
) -> LoadedCheckpoint:
    """Load the parameters of a step as nested dicts of numpy arrays, whatever devices wrote them.

    Reads and verifies no other data, takes no lease, changes nothing on disk, and works inside a running event loop.

    Args:
        path: A run directory, a folder of checkpoints, or one step.
        step: The step; "best": the one that best.json names; None: the newest that verifies.
        dtype: Dtype that floating-point leaves are cast to; None: as stored.
        verify: What is compared for every file, its "hash" or its "size".
        run: Id of the run that the step must be of; None: of any.
        starts: Ids of the starts of that run, one of which must have saved the step; (): any.
        params: "params"; "ema" for their moving average (train.ema); or "mean:N" for the mean of those of this step
            and the N - 1 complete ones before it.

    Returns:
        The step, its parameters, and the JSON saved with them.

    Raises:
        CheckpointError: There is no such step, or none can be trusted; lists each with its reason.
    """
    part, count = _part_and_count(params)
    folder, loaded = _newest_readable(
        path,
        step,
        run,
        starts,
        lambda folder, manifest: _read_params(folder, manifest, part, verify),
    )
    tree = loaded.tree
    if count > 1:
        tree = _mean_with_earlier(folder, loaded.step, tree, count, verify, run, starts)
    return loaded._replace(
        tree=jax.tree.map(lambda leaf: leaf.astype(_cast(leaf.dtype, dtype), copy=False), tree)
    )


def open_params(
    path: str | os.PathLike | BucketPath,
    step: int | str | None = None,
    *,
    dtype: Any = None,
    run: str | None = None,
    starts: Sequence[str] = (),
    params: str = trees.PARAMS,
) -> LoadedCheckpoint:
    """Verify a step by its hashes and return its parameters as StoredParams: none is read yet.

    Args:
        path: As load_params', as are the other arguments.
        step: The step, "best", or None for the newest that verifies.
        dtype: Dtype that floating-point leaves are cast to; None: as stored.
        run: Id of the run that the step must be of; None: of any.
        starts: Ids of the starts of that run; (): any.
        params: "params" or "ema"; a mean is of parameters that are all read (load_params).

    Returns:
        The step, its parameters, and the JSON saved with them.

    Raises:
        CheckpointError: There is no such step, or none can be trusted; lists each with its reason.
    """

    def opened(folder: Place, manifest: Manifest) -> dict[str, Any]:
        abstract = _params_info(folder, manifest, params, in_full=False)
        manifests.verify(folder, manifest, "hash", _files_of(manifest, params))
        return trees_by_path.unflatten(
            {
                path: StoredParam(folder, params, path, leaf, _cast(leaf.dtype, dtype))
                for path, leaf in abstract.items()
            }
        )

    return _newest_readable(path, step, run, starts, opened)[1]


def _newest_readable(
    path: str | os.PathLike | BucketPath,
    step: int | str | None,
    run: str | None,
    starts: Sequence[str],
    read: Callable[[Place, Manifest], Any],
) -> tuple[Place, LoadedCheckpoint]:
    """Return the folder of steps, and what `read` makes of the first candidate that is not damaged.

    Args:
        path: As load_params'.
        step: As load_params'.
        run: As load_params'.
        starts: As load_params'.
        read: Makes the tree of the folder and the manifest of a step; raises Damaged.

    Returns:
        (folder of steps, the step with that tree). Raises CheckpointError where none is left.
    """
    folder = steps_folder(path)
    if step is None and steps.is_complete(places.parse(path)):
        step = _number(places.parse(path))
    reasons = {}
    for number in candidates(folder, resolve_step(folder, step)):
        try:
            manifest = manifests.read(folder / str(number), run, starts)
            tree = read(folder / str(number), manifest)
        except Damaged as error:
            log.warning("checkpoint at step %d skipped: %s", number, error)
            reasons[number] = str(error)
            continue
        return folder, LoadedCheckpoint(number, tree, manifest.extra)
    raise nothing_left(folder, reasons)


def _part_and_count(params: str) -> tuple[str, int]:
    """Return the part of a checkpoint that `params` of `load_params` names, and the number of steps in the mean."""
    name, _, count = params.partition(":")
    if params in (trees.PARAMS, trees.EMA):
        return params, 1
    if name == "mean" and count.isdecimal() and int(count) > 0:
        return trees.PARAMS, int(count)
    raise ConfigError(f"params = {params!r} must be 'params', 'ema', or 'mean:N' of the last N checkpoints")


def _mean_with_earlier(
    folder: Place,
    newest: int,
    tree: Any,
    count: int,
    verify: Verify,
    run: str | None,
    starts: Sequence[str],
) -> Any:
    """Return the mean of the parameters of a step and of the count - 1 complete ones before it.

    Raises CheckpointError where there are fewer, or one of them cannot be read.
    """
    complete = [number for number in steps.listing(folder).complete if number <= newest]
    if len(complete) < count:
        raise CheckpointError(
            f"params = 'mean:{count}': {folder} has {len(complete)} complete checkpoints up to step {newest}; keep "
            "more of them with checkpoint.keep, or take the mean of fewer"
        )
    # One step in memory besides the sums, which are wide: bfloat16 has 8 bits.
    sums = jax.tree.map(lambda leaf: leaf.astype(np.float64), tree)
    for number in complete[-count:-1]:
        try:
            manifest = manifests.read(folder / str(number), run, starts)
            earlier = _read_params(folder / str(number), manifest, trees.PARAMS, verify)
        except Damaged as error:
            raise CheckpointError(f"params = 'mean:{count}': step {number} of {folder}: {error}") from error
        sums = jax.tree.map(np.add, sums, earlier)
    return jax.tree.map(lambda total, leaf: (total / count).astype(leaf.dtype), sums, tree)


def candidates(folder: Place, step: int | None) -> Iterator[int]:
    """Return the complete steps from the newest on, or only `step`; CheckpointError where there is no such step."""
    complete = steps.listing(folder).complete
    if step is None:
        # The newest first: each older step costs training that was already paid for.
        return iter(reversed(complete))
    if step not in complete:
        known = ", ".join(map(str, complete)) or "none"
        raise CheckpointError(f"no complete checkpoint at step {step} in {folder}; complete: {known}")
    return iter((step,))


def nothing_left(folder: Place, reasons: dict[int, str]) -> CheckpointError:
    """Return the error that lists every step with the reason why it cannot be used."""
    listing = steps.listing(folder)
    lines = [f"  step {number}: {reason}" for number, reason in sorted(reasons.items(), reverse=True)]
    lines += [
        f"  step {number}: not complete (no {steps.COMMIT} or no {steps.MANIFEST})"
        for number in listing.incomplete
    ]
    known = {f"{number}.corrupt-" for number in reasons}
    lines += [
        f"  {name}: {steps.reason_of(folder, name)}"
        for name in listing.corrupt
        if not name.startswith(tuple(known))
    ]
    what = "\n".join(lines) or "  no checkpoint is there"
    return CheckpointError(
        f"no checkpoint in {folder} can be read:\n{what}\nto start over, move that folder away or delete it"
    )


def load(folder: Place, manifest: Manifest, abstract: Any, optional: Sequence[str] = ()) -> Any:
    """Load a verified step.

    Args:
        folder: Folder of the step.
        manifest: Its manifest.
        abstract: The tree wanted, with shardings.
        optional: Entries of dicts in the dict `abstract`, as "group/entry", that are left out where those of the
            checkpoint are not alike.

    Returns:
        The tree, in the structure and shardings of `abstract`.

    Raises:
        CheckpointError: Leaves do not match; the message is a table of them.
        DeviceMemoryError: It does not fit the devices.
    """
    unlike = []
    for name in optional:
        group, _, entry = name.partition("/")
        others = {key: value for key, value in abstract[group].items() if key != entry}
        wanted = trees.describe({name: abstract[group].get(entry, {})})
        # An entry is a leaf or a tree of them.
        saved = {path: leaf for path, leaf in manifest.leaves.items() if f"{path}/".startswith(f"{name}/")}
        if saved != wanted:
            # Read as it is stored, for Orbax reads whole parts, and dropped.
            leaves = {
                path.removeprefix(f"{group}/"): jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(leaf.dtype))
                for path, leaf in saved.items()
            }
            stored = trees_by_path.unflatten(leaves)
            abstract = {**abstract, group: others | stored}
            unlike.append((group, entry))
    wanted = trees.flat(abstract)
    differences = mismatch.table(manifest.leaves, wanted)
    if differences:
        raise CheckpointError(f"the checkpoint {folder} does not match the model:\n{differences}")
    try:
        tree = trees.join(abstract, replicas.load(folder, trees.split(abstract)))
    except Exception as error:
        # Told apart from damage: a step that is only too large must not be set aside.
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            needed = trees_by_path.num_bytes(abstract)
            raise DeviceMemoryError(
                f"{folder} ({needed} bytes of arrays) does not fit: {str(error).splitlines()[0]}"
            ) from error
        raise
    for group, entry in unlike:
        tree[group].pop(entry, None)
    return tree


def _params_info(
    folder: Place, manifest: Manifest, part: str, in_full: bool = True
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and dtype of the parameters by path; CheckpointError where the machine lacks the memory for them.

    Args:
        folder: Folder of the step.
        manifest: Its manifest.
        part: "params" or "ema".
        in_full: Whether all are in memory at a time; False: one after the other.
    """
    leaves = {path: leaf for path, leaf in manifest.leaves.items() if trees.part_of(path) == part}
    if not leaves and part == trees.EMA:
        raise CheckpointError(
            f"{folder} has no moving average of the parameters; a run with train.ema.decay above 0 saves one"
        )
    if not leaves:
        raise CheckpointError(f"{folder} holds no parameters")
    try:
        abstract = {
            path.removeprefix(trees.prefix_of(part)): jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(leaf.dtype))
            for path, leaf in leaves.items()
        }
    except TypeError as error:
        raise Damaged(f"{steps.MANIFEST} names an unknown dtype: {error}") from error
    sizes = [trees_by_path.array_bytes(leaf.shape, leaf.dtype) for leaf in abstract.values()]
    _refuse_too_large(folder, sum(sizes) if in_full else max(sizes))
    return abstract


def _files_of(manifest: Manifest, part: str) -> list[str]:
    """Return the files that a part is read from.

    Those at the top belong to all parts (Orbax's metadata); those of the optimizer are not read, so not hashed.
    """
    return [path for path in manifest.files if path.startswith(f"{part}/") or "/" not in path]


def _read_params(folder: Place, manifest: Manifest, part: str, verify: Verify) -> dict[str, Any]:
    abstract = _params_info(folder, manifest, part)
    with manifests.verified_beside(folder, manifest, verify, _files_of(manifest, part)):
        try:
            nested = store.load(folder, {part: trees_by_path.unflatten(abstract)})[part]
        except Exception as error:
            raise Damaged(cannot_be_loaded(error)) from error
    for path, leaf in trees_by_path.flatten(nested).items():
        _check_alike(path, part, leaf, abstract[path])
    return nested


def cannot_be_loaded(error: Exception) -> str:
    """Return why a step is skipped whose files are there and that Orbax does not load."""
    return f"cannot be loaded: {type(error).__name__}: {first_line(error)}"


def _check_alike(path: str, part: str, leaf: np.ndarray, wanted: jax.ShapeDtypeStruct) -> None:
    """Raise Damaged where Orbax, which reads shape and dtype from its own metadata, disagrees with the manifest."""
    if leaf.shape != wanted.shape or leaf.dtype != wanted.dtype:
        raise Damaged(f"{part}/{path} is {leaf.dtype}{leaf.shape}, the manifest says {wanted}")


def _cast(stored: np.dtype, dtype: Any) -> np.dtype:
    """Return the dtype of a leaf, "stored" in the files, where floating-point ones are cast to `dtype`."""
    is_kept = dtype is None or not jnp.issubdtype(stored, jnp.floating)
    return stored if is_kept else jnp.dtype(dtype)


def _refuse_too_large(folder: Place, needed: int) -> None:
    """Refuse parameters larger than this machine's memory, for a manifest may claim any size."""
    memory = machine_bytes()
    if needed > memory:
        raise CheckpointError(f"the parameters in {folder} need {needed} bytes, this machine has {memory}")


def _number(path: Place) -> int:
    try:
        return int(path.absolute().name)
    except ValueError as error:
        raise CheckpointError(f"{path} is a checkpoint whose folder is not named by its step") from error
